//! The keys a car has been told of, and its own answer to whoever presents one - online or not.
//!
//! An allow-list: a key that is not here, or does not list a function, opens nothing. A revoked key stays listed until
//! it would have expired anyway, so that a grant arriving late does not bring it back.

use cardea::domain::key::{Geofence, KeyGrant, KeyRefusal, RevocationEffect};
use cardea::domain::{Function, KeyId, Position, Timestamp};

use crate::proof::Proven;

/// More keys than a car is ever lent under at once; the next one is refused.
pub const MAX_KEYS: usize = 64;
pub const MAX_REVOCATIONS: usize = 256;
/// A revocation of a key that was never seen is kept this long, since its own end is not known.
const UNSEEN_REVOCATION_MS: i64 = 90 * 24 * 3_600_000;
/// What clocks are set back by when they are synchronised.
const CLOCK_SLACK_MS: i64 = 60_000;

#[derive(Debug, Clone)]
pub struct Keyring {
    grants: Vec<KeyGrant>,
    revocations: Vec<Revocation>,
    generation: u32,
    /// The latest time the car has seen, by its own clock or the gateway's. A unit keeps it where a loss of power does
    /// not reach.
    latest: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Revocation {
    key_id: KeyId,
    /// Driving goes on until the car next stands still with ignition off.
    spares_driving: bool,
    /// Of a key the car was not told of: one that was handed on, or one whose grant never came.
    is_unseen: bool,
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
    NotDelegable,
    OutsideGeofence,
    /// The car's clock is behind what it has seen: no time that a key names can be trusted.
    ClockSetBack,
    Disabled,
    Unsupported,
}

impl KeyDenial {
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::Key(refusal) => refusal.reason(),
            Self::OtherHolder => "other_holder",
            Self::NotDelegable => "delegation_not_allowed",
            Self::OutsideGeofence => "outside_geofence",
            Self::ClockSetBack => "clock_set_back",
            Self::Disabled => "disabled",
            Self::Unsupported => "unsupported",
        }
    }
}

impl Default for Keyring {
    fn default() -> Self {
        Self { grants: Vec::new(), revocations: Vec::new(), generation: 0, latest: Timestamp(0) }
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
    fn knows(&self, proven: &Proven) -> Result<(), KeyDenial> {
        match self.grant(proven.key_id) {
            Some(grant) if grant.holder_key != proven.holder_key => Err(KeyDenial::OtherHolder),
            Some(grant) if grant.generation != proven.generation => Err(KeyDenial::Key(KeyRefusal::WrongGeneration)),
            Some(_) | None => Ok(()),
        }
    }

    /// Time as the car's own clock has it.
    pub fn note_time(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
    }

    /// Time as the gateway has written it a moment ago. Where both clocks agree, an earlier leap of the car's is forgiven;
    /// else a glitch into the future would close the car until it gets there.
    pub fn note_gateway_time(&mut self, now: Timestamp, written: Timestamp) {
        let agree = now.since_ms(written).abs() <= CLOCK_SLACK_MS;
        self.latest = if agree { now.max(written) } else { self.latest.max(written) };
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
        let is_unseen = grant.is_none();
        let drives = grant.is_some_and(|grant| grant.permits.contains(Function::Drive));
        let spares_driving = effect == RevocationEffect::AtSafeState && drives && !is_safe;
        let forget_after = grant.map_or(now.plus_ms(UNSEEN_REVOCATION_MS), |grant| grant.not_after);
        self.revocations.retain(|known| known.key_id != key_id);
        if self.revocations.len() >= MAX_REVOCATIONS {
            // Of keys the car never saw, then the one nearest its own end: its key is the least likely to come again. What
            // is forgotten here must not open again, so its grant goes with it; one that still drives is kept.
            let rank = |at: &usize| {
                let known = &self.revocations[*at];
                (known.spares_driving, !known.is_unseen, known.forget_after)
            };
            if let Some(oldest) = (0..self.revocations.len()).min_by_key(rank) {
                let gone = self.revocations.swap_remove(oldest);
                self.grants.retain(|grant| grant.key_id != gone.key_id);
            }
        }
        self.revocations.push(Revocation { key_id, spares_driving, is_unseen, forget_after });
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
        if now < self.latest.plus_ms(-CLOCK_SLACK_MS) {
            return Err(KeyDenial::ClockSetBack);
        }
        grant.permits_at(now, function).map_err(KeyDenial::Key)?;
        within(grant.geofence, here)
    }

    /// May the phone that proved it use this function here and now? A key that was handed on permits what it lists, as
    /// long as the one it was made of permits it too.
    pub fn permits_proven(
        &self,
        now: Timestamp,
        proven: &Proven,
        function: Function,
        here: Position,
    ) -> Result<(), KeyDenial> {
        self.knows(proven)?;
        self.permits(now, proven.key_id, function, here)?;
        let Some(delegated) = &proven.delegated else { return Ok(()) };
        if self.revocations.iter().any(|revocation| revocation.key_id == delegated.key_id) {
            return Err(KeyDenial::Key(KeyRefusal::Revoked));
        }
        if self.grant(proven.key_id).is_none_or(|grant| grant.max_delegation == 0) {
            return Err(KeyDenial::NotDelegable);
        }
        if now < delegated.not_before {
            return Err(KeyDenial::Key(KeyRefusal::NotYetValid));
        }
        if now > delegated.not_after {
            return Err(KeyDenial::Key(KeyRefusal::Expired));
        }
        if !delegated.permits.contains(function) {
            return Err(KeyDenial::Key(KeyRefusal::Prohibited));
        }
        within(delegated.geofence, here)
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        self.grants.retain(|grant| grant.not_after >= now);
        self.revocations.retain(|revocation| revocation.forget_after >= now);
    }
}

/// A fence nobody can measure against permits nothing.
fn within(fence: Option<Geofence>, here: Position) -> Result<(), KeyDenial> {
    let Some(fence) = fence else { return Ok(()) };
    let distance_m = Position { latitude: fence.latitude, longitude: fence.longitude }.distance_m(here);
    if distance_m.is_nan() || distance_m > fence.radius_m { Err(KeyDenial::OutsideGeofence) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use cardea::domain::Functions;
    use cardea::domain::key::HolderKey;
    use uuid::Uuid;

    use super::*;
    use crate::proof::DelegatedKey;

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
            max_speed_kmh: None,
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
    fn a_clock_that_was_set_back_opens_nothing_until_it_agrees_with_the_gateways() {
        let mut ring = ring_with(&[grant(1, &[Function::UnlockDoors])]);
        let ask = |ring: &Keyring, at| ring.permits(at, KeyId(Uuid::from_u128(1)), Function::UnlockDoors, HERE);
        let late = NOW.plus_ms(3_600_001);
        ring.note_time(late);
        assert_eq!(ask(&ring, late), Err(KeyDenial::Key(KeyRefusal::Expired)));
        assert_eq!(ask(&ring, NOW.plus_ms(1_000)), Err(KeyDenial::ClockSetBack));
        ring.note_gateway_time(NOW.plus_ms(1_000), late.plus_ms(5_000));
        assert_eq!(ask(&ring, NOW.plus_ms(1_000)), Err(KeyDenial::ClockSetBack));
        ring.note_gateway_time(NOW.plus_ms(1_000), NOW.plus_ms(1_500));
        assert_eq!(ask(&ring, NOW.plus_ms(1_000)), Ok(()), "its own clock had leapt, and the gateway says so");
        assert_eq!(ask(&ring, NOW.plus_ms(1_500 - CLOCK_SLACK_MS)), Err(KeyDenial::Key(KeyRefusal::NotYetValid)));
    }

    #[test]
    fn a_key_that_was_handed_on_opens_what_both_permit_as_long_as_both_may() {
        let mut parent = grant(1, &[Function::UnlockDoors, Function::LockDoors]);
        parent.max_delegation = 1;
        let mut ring = ring_with(std::slice::from_ref(&parent));
        let delegated = DelegatedKey {
            key_id: KeyId(Uuid::from_u128(2)),
            permits: vec![Function::UnlockDoors, Function::Drive].into(),
            not_before: NOW.plus_ms(1_000),
            not_after: NOW.plus_ms(2_000),
            geofence: Some(Geofence { latitude: HERE.latitude, longitude: HERE.longitude, radius_m: 50.0 }),
            max_speed_kmh: None,
        };
        let (holder_key, generation) = (parent.holder_key.clone(), parent.generation);
        let proven = Proven { key_id: parent.key_id, holder_key, generation, delegated: Some(delegated) };
        let ask = |ring: &Keyring, ms, function, here| ring.permits_proven(NOW.plus_ms(ms), &proven, function, here);
        let refused = |refusal| Err(KeyDenial::Key(refusal));
        assert_eq!(ask(&ring, 1_500, Function::UnlockDoors, HERE), Ok(()));
        assert_eq!(ask(&ring, 1_500, Function::LockDoors, HERE), refused(KeyRefusal::Prohibited), "not handed on");
        assert_eq!(ask(&ring, 1_500, Function::Drive, HERE), refused(KeyRefusal::Prohibited), "never had");
        assert_eq!(ask(&ring, 999, Function::UnlockDoors, HERE), refused(KeyRefusal::NotYetValid));
        assert_eq!(ask(&ring, 2_001, Function::UnlockDoors, HERE), refused(KeyRefusal::Expired));
        let away = Position { latitude: 45.08, ..HERE };
        assert_eq!(ask(&ring, 1_500, Function::UnlockDoors, away), Err(KeyDenial::OutsideGeofence));
        let kept = ring_with(&[KeyGrant { max_delegation: 0, ..parent.clone() }]);
        assert_eq!(ask(&kept, 1_500, Function::UnlockDoors, HERE), Err(KeyDenial::NotDelegable));
        let mut alone = ring.clone();
        alone.revoke(NOW, KeyId(Uuid::from_u128(2)), 4, RevocationEffect::Immediate, true);
        assert_eq!(ask(&alone, 1_500, Function::UnlockDoors, HERE), refused(KeyRefusal::Revoked), "taken back alone");
        ring.revoke(NOW, parent.key_id, 4, RevocationEffect::Immediate, true);
        assert_eq!(ask(&ring, 1_500, Function::UnlockDoors, HERE), refused(KeyRefusal::Revoked), "with its parent");
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
    fn a_flood_of_revocations_brings_no_key_back() {
        let both = grant(1, &[Function::UnlockDoors, Function::Drive]);
        let mut ring = ring_with(std::slice::from_ref(&both));
        ring.revoke(NOW, both.key_id, 4, RevocationEffect::AtSafeState, false);
        for number in 100..100 + 2 * MAX_REVOCATIONS as u128 {
            ring.revoke(NOW, KeyId(Uuid::from_u128(number)), 5, RevocationEffect::Immediate, true);
        }
        let revoked = Err(KeyDenial::Key(KeyRefusal::Revoked));
        assert_eq!(ring.permits(NOW, both.key_id, Function::UnlockDoors, HERE), revoked);
        assert_eq!(ring.permits(NOW, both.key_id, Function::Drive, HERE), Ok(()), "until it stands");
        ring.settle_at_safe_state();
        assert_eq!(ring.permits(NOW, both.key_id, Function::Drive, HERE), revoked);
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
