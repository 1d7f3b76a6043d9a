//! A row as the view and the snapshots keep it: its JSON, or where in the journal an event says it whole.
//!
//! What is written once and large is so kept once: the view and every snapshot grow by some forty bytes for it.

use serde_json::value::RawValue;

use super::frame::{array, u32_at, u64_at};
use super::journal::Place;

/// JSON never begins with this byte.
const IN_JOURNAL: u8 = 0;
const IN_JOURNAL_LEN: usize = 1 + 8 + 8 + 8 + 4;

/// The member of an event in the journal that is the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InJournal {
    pub number: u64,
    pub place: Place,
    pub event: u32,
    pub member: String,
}

#[derive(Debug)]
pub enum Row {
    Json(Box<RawValue>),
    InJournal(InJournal),
}

impl InJournal {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(IN_JOURNAL_LEN + self.member.len());
        out.push(IN_JOURNAL);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.place.segment.to_le_bytes());
        out.extend_from_slice(&self.place.offset.to_le_bytes());
        out.extend_from_slice(&self.event.to_le_bytes());
        out.extend_from_slice(self.member.as_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, member) = bytes.split_at_checked(IN_JOURNAL_LEN)?;
        let place = Place { segment: u64::from_le_bytes(array(&head[9..17])), offset: u64_at(head, 17) };
        let member = std::str::from_utf8(member).ok()?.to_owned();
        Some(Self { number: u64_at(head, 1), place, event: u32_at(head, 25), member })
    }
}

impl Row {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.first() == Some(&IN_JOURNAL) {
            return InJournal::parse(bytes).map(Self::InJournal).ok_or_else(|| "a row's place is cut off".to_owned());
        }
        let json = serde_json::from_slice(bytes).map_err(|error| format!("a row of the view is not JSON: {error}"))?;
        Ok(Self::Json(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written_and_a_cut_one_is_none() {
        let place = Place { segment: 7, offset: 1 << 33 };
        let row = InJournal { number: u64::MAX, place, event: 3, member: "decision".into() };
        let bytes = row.to_bytes();
        assert!(matches!(Row::parse(&bytes), Ok(Row::InJournal(read)) if read == row));
        assert!(matches!(Row::parse(&bytes[..IN_JOURNAL_LEN]), Ok(Row::InJournal(read)) if read.member.is_empty()));
        Row::parse(&bytes[..IN_JOURNAL_LEN - 1]).unwrap_err();
        assert!(matches!(Row::parse(b"{}"), Ok(Row::Json(_))));
        Row::parse(b"").unwrap_err();
    }
}
