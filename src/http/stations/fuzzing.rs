//! Body for [`crate::fuzzing`]: a station directory of whatever bytes, under a mapping of whatever text.

use super::import;
use super::mapping::Mapping;

/// The first byte says CSV or GeoJSON, and whether the first line (to a NUL) is a mapping's text.
pub fn stations(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let (text, body) = match rest.iter().position(|byte| *byte == 0) {
        Some(end) if first & 2 != 0 => (&rest[..end], &rest[end + 1..]),
        _ => (&rest[..0], rest),
    };
    let Ok(mut mapping) = Mapping::parse(&String::from_utf8_lossy(text)) else { return };
    let format = if first & 1 == 0 { "csv" } else { "geojson" };
    let columns = (first & 4 != 0).then(|| String::from_utf8_lossy(body.split(|b| *b == b'\n').next().unwrap_or(b"")));
    if mapping.refine(Some(format), columns.as_deref()).is_err() {
        return;
    }
    if let Ok(parsed) = import::parse(body, &mapping) {
        assert!(parsed.rejected.len() <= parsed.rejected_total);
        for station in parsed.stations {
            let is_fit = station.position.is_none_or(|position| position.is_valid());
            assert!(is_fit, "a station nowhere on the globe was taken: {station:?}");
        }
    }
}
