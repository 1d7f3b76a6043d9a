//! The keys a car has been told of, and its own answer to whoever presents one - online or not.
//!
//! An allow-list: a key that is not here, or does not list a function, opens nothing. A revoked key stays listed until
//! it would have expired anyway, so that a grant arriving late does not bring it back.

use cardea::domain::key::{KeyGrant, KeyRefusal, RevocationEffect};
use cardea::domain::{Function, KeyId, Position, Timestamp};

use crate::proof::Proven;

/// More keys than a car is ever lent under at once; the next one is refused.
pub const MAX_KEYS: usize = 64;
pub const MAX_REVOCATIONS: usize = 256;
/// A revocation of a key that was never seen is kept this long, since its own end is not known.
const UNSEEN_REVOCATION_MS: i64 = 90 * 24 * 3_600_000;

#[derive(Debug, Clone, Default)]
pub struct Keyring {
    grants: Vec<KeyGrant>,
    revocations: Vec<Revocation>,
    generation: u32,
}

#[derive(Debug, Clone, Copy)]
struct Revocation {
    key_id: KeyId,
    /// Driving goes on until the car next stands still with ignition off.
    spares_driving: bool,
    forget_after: Timestamp,
}

/// Why a key was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    Revoked,
    Expired,
    Full,
}

/// Why the car does not do what a key asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDenial {
    UnknownKey,
    Key(KeyRefusal),
    /// The token's holder is not the grant's.
    OtherHolder,
    OutsideGeofence,
    Disabled,
    Unsupported,
}

impl KeyDenial {
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::Key(refusal) => refusal.reason(),
            Self::OtherHolder => "other_holder",
            Self::OutsideGeofence => "outside_geofence",
            Self::Disabled => "disabled",
            Self::Unsupported => "unsupported",
        }
    }
}

impl Keyring {
    /// The highest generation any grant or revocation carried.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn len(&self) -> usize {
        self.grants.len()
    }

    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    pub fn grant(&self, key_id: KeyId) -> Option<&KeyGrant> {
        self.grants.iter().find(|grant| grant.key_id == key_id)
    }

    /// Is the proven key the one that the car was told of? A key that is not here is left to [`Self::permits`], which
    /// knows why.
    pub fn knows(&self, proven: &Proven) -> Result<(), KeyDenial> {
        match self.grant(proven.key_id) {
            Some(grant) if grant.holder_key != proven.holder_key => Err(KeyDenial::OtherHolder),
            Some(grant) if grant.generation != proven.generation => Err(KeyDenial::Key(KeyRefusal::WrongGeneration)),
            Some(_) | None => Ok(()),
        }
    }

    /// The same key again replaces what was known of it.
    pub fn take(&mut self, now: Timestamp, grant: KeyGrant) -> Result<(), NotTaken> {
        self.forget_what_is_over(now);
        if self.revocations.iter().any(|revocation| revocation.key_id == grant.key_id) {
            return Err(NotTaken::Revoked);
        }
        if now > grant.not_after {
            return Err(NotTaken::Expired);
        }
        self.generation = self.generation.max(grant.generation);
        if let Some(known) = self.grants.iter_mut().find(|known| known.key_id == grant.key_id) {
            *known = grant;
            return Ok(());
        }
        if self.grants.len() >= MAX_KEYS {
            return Err(NotTaken::Full);
        }
        self.grants.push(grant);
        Ok(())
    }

    /// Entry ends at once with either effect; returns false when driving is spared until the car is safe.
    pub fn revoke(
        &mut self,
        now: Timestamp,
        key_id: KeyId,
        generation: u32,
        effect: RevocationEffect,
        is_safe: bool,
    ) -> bool {
        self.forget_what_is_over(now);
        self.generation = self.generation.max(generation);
        let grant = self.grant(key_id);
        let drives = grant.is_some_and(|grant| grant.permits.contains(Function::Drive));
        let spares_driving = effect == RevocationEffect::AtSafeState && drives && !is_safe;
        let forget_after = grant.map_or(now.plus_ms(UNSEEN_REVOCATION_MS), |grant| grant.not_after);
        self.revocations.retain(|known| known.key_id != key_id);
        if self.revocations.len() >= MAX_REVOCATIONS {
            // The one nearest its own end goes; its key is the least likely to come again.
            if let Some(oldest) = (0..self.revocations.len()).min_by_key(|at| self.revocations[*at].forget_after) {
                self.revocations.swap_remove(oldest);
            }
        }
        self.revocations.push(Revocation { key_id, spares_driving, forget_after });
        if !spares_driving {
            self.grants.retain(|grant| grant.key_id != key_id);
        }
        !spares_driving
    }

    /// The car stands still with ignition off: what was spared ends now.
    pub fn settle_at_safe_state(&mut self) {
        for revocation in &mut self.revocations {
            if std::mem::take(&mut revocation.spares_driving) {
                self.grants.retain(|grant| grant.key_id != revocation.key_id);
            }
        }
    }

    /// May whoever holds this key use this function here and now?
    pub fn permits(&self, now: Timestamp, key_id: KeyId, function: Function, here: Position) -> Result<(), KeyDenial> {
        if let Some(revocation) = self.revocations.iter().find(|revocation| revocation.key_id == key_id)
            && !(revocation.spares_driving && function == Function::Drive)
        {
            return Err(KeyDenial::Key(KeyRefusal::Revoked));
        }
        let grant = self.grant(key_id).ok_or(KeyDenial::UnknownKey)?;
        grant.permits_at(now, function).map_err(KeyDenial::Key)?;
        if let Some(fence) = grant.geofence {
            let centre = Position { latitude: fence.latitude, longitude: fence.longitude };
            let distance_m = centre.distance_m(here);
            // A fence nobody can measure against permits nothing.
            if distance_m.is_nan() || distance_m > fence.radius_m {
                return Err(KeyDenial::OutsideGeofence);
            }
        }
        Ok(())
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        self.grants.retain(|grant| grant.not_after >= now);
        self.revocations.retain(|revocation| revocation.forget_after >= now);
    }
}

#[cfg(test)]
mod tests {
    use cardea::domain::Functions;
    use cardea::domain::key::{Geofence, HolderKey};
    use uuid::Uuid;

    use super::*;

    const HERE: Position = Position { latitude: 45.07, longitude: 7.68 };
    const NOW: Timestamp = Timestamp(1_000_000);

    fn grant(number: u128, permits: &[Function]) -> KeyGrant {
        KeyGrant {
            key_id: KeyId(Uuid::from_u128(number)),
            holder_key: HolderKey::Ed25519 { x: [0; 32] },
            permits: permits.to_vec().into(),
            not_before: NOW,
            not_after: NOW.plus_ms(3_600_000),
            generation: 3,
            geofence: None,
            max_delegation: 0,
        }
    }

    fn ring_with(grants: &[KeyGrant]) -> Keyring {
        let mut ring = Keyring::default();
        for grant in grants {
            ring.take(NOW, grant.clone()).expect("taken");
        }
        ring
    }

    #[test]
    fn a_key_opens_only_what_it_lists_and_only_in_its_time() {
        let ring = ring_with(&[grant(1, &[Function::UnlockDoors])]);
        let key = KeyId(Uuid::from_u128(1));
        let ask = |at: Timestamp, function| ring.permits(at, key, function, HERE);
        assert_eq!(ask(NOW, Function::UnlockDoors), Ok(()));
        assert_eq!(ask(NOW, Function::Drive), Err(KeyDenial::Key(KeyRefusal::Prohibited)));
        assert_eq!(ask(NOW.plus_ms(-1), Function::UnlockDoors), Err(KeyDenial::Key(KeyRefusal::NotYetValid)));
        assert_eq!(ask(NOW.plus_ms(3_600_001), Function::UnlockDoors), Err(KeyDenial::Key(KeyRefusal::Expired)));
    }

    #[test]
    fn an_unknown_key_opens_nothing() {
        let ring = ring_with(&[]);
        for function in Function::ALL {
            assert_eq!(ring.permits(NOW, KeyId(Uuid::from_u128(9)), function, HERE), Err(KeyDenial::UnknownKey));
        }
    }

    #[test]
    fn a_revoked_key_does_not_come_back_by_a_late_grant() {
        let mut ring = Keyring::default();
        let late = grant(1, &[Function::UnlockDoors]);
        assert!(ring.revoke(NOW, late.key_id, 4, RevocationEffect::Immediate, true));
        assert_eq!(ring.take(NOW, late), Err(NotTaken::Revoked));
        assert_eq!(ring.generation(), 4);
    }

    #[test]
    fn a_revocation_at_safe_state_ends_entry_at_once_and_driving_at_the_stand() {
        let both = grant(1, &[Function::UnlockDoors, Function::Drive]);
        let mut ring = ring_with(std::slice::from_ref(&both));
        assert!(!ring.revoke(NOW, both.key_id, 4, RevocationEffect::AtSafeState, false));
        let revoked = Err(KeyDenial::Key(KeyRefusal::Revoked));
        assert_eq!(ring.permits(NOW, both.key_id, Function::UnlockDoors, HERE), revoked);
        assert_eq!(ring.permits(NOW, both.key_id, Function::Drive, HERE), Ok(()));
        ring.settle_at_safe_state();
        assert_eq!(ring.permits(NOW, both.key_id, Function::Drive, HERE), revoked);
    }

    #[test]
    fn an_immediate_revocation_ends_driving_too() {
        let both = grant(1, &[Function::UnlockDoors, Function::Drive]);
        let mut ring = ring_with(std::slice::from_ref(&both));
        assert!(ring.revoke(NOW, both.key_id, 4, RevocationEffect::Immediate, false));
        let revoked = Err(KeyDenial::Key(KeyRefusal::Revoked));
        assert_eq!(ring.permits(NOW, both.key_id, Function::Drive, HERE), revoked);
    }

    #[test]
    fn a_fence_keeps_the_key_inside() {
        let mut fenced = grant(1, &[Function::UnlockDoors]);
        fenced.geofence = Some(Geofence { latitude: 45.0, longitude: 7.0, radius_m: 100.0 });
        let ring = ring_with(std::slice::from_ref(&fenced));
        let ask = |here| ring.permits(NOW, fenced.key_id, Function::UnlockDoors, here);
        assert_eq!(ask(HERE), Err(KeyDenial::OutsideGeofence));
        assert_eq!(ask(Position { latitude: 45.0, longitude: 7.0 }), Ok(()));
        assert_eq!(ask(Position { latitude: f64::NAN, longitude: 7.0 }), Err(KeyDenial::OutsideGeofence));
    }

    #[test]
    fn the_ring_is_bounded_and_forgets_what_is_over() {
        let mut ring = Keyring::default();
        for number in 0..MAX_KEYS as u128 {
            assert_eq!(ring.take(NOW, grant(number, &[Function::Locate])), Ok(()));
        }
        assert_eq!(ring.take(NOW, grant(1000, &[Function::Locate])), Err(NotTaken::Full));
        let later = NOW.plus_ms(3_600_001);
        let mut next = grant(1000, &[Function::Locate]);
        next.not_after = later.plus_ms(1);
        assert_eq!(ring.take(later, next), Ok(()));
        assert_eq!(ring.len(), 1);
        for number in 0..1000 {
            ring.revoke(later, KeyId(Uuid::from_u128(number)), 1, RevocationEffect::Immediate, true);
        }
        assert!(ring.revocations.len() <= MAX_REVOCATIONS);
    }

    #[test]
    fn permissions_of_one_key_do_not_spill_to_another() {
        let ring = ring_with(&[grant(1, &[Function::UnlockDoors]), grant(2, &[Function::Drive])]);
        for (number, permits) in [(1, Function::UnlockDoors), (2, Function::Drive)] {
            let open: Functions = Function::ALL
                .into_iter()
                .filter(|function| ring.permits(NOW, KeyId(Uuid::from_u128(number)), *function, HERE).is_ok())
                .collect::<Vec<_>>()
                .into();
            assert_eq!(open, Functions::NONE.with(permits));
        }
    }
}
