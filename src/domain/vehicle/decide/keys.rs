//! What becomes of a key after it was granted: used from afar, handed on, taken back.

use super::{Draft, missing, refuse};
use crate::domain::command::{Command, CommandState, Order};
use crate::domain::key::{Delegation, Key, KeyRefusal, KeyState, RevocationEffect};
use crate::domain::vehicle::Event;
use crate::domain::{CommandId, Function, KeyId, Principal, Refusal, RefusalKind, Role};

/// A revocation is worth sending for this long after the key has expired: the car's clock may lag.
const REVOCATION_TAIL_MS: i64 = 3_600_000;

impl Draft<'_> {
    pub(super) fn revoke_by_id(&mut self, key_id: KeyId) {
        if let Some(key) = self.vehicle.key(key_id).cloned() {
            self.revoke(&key, RevocationEffect::AtSafeState);
        }
    }

    pub(super) fn revoke(&mut self, key: &Key, effect: RevocationEffect) {
        let (now, key_id) = (self.context.now, key.grant.key_id);
        if key.revoked_at.is_some() && !self.is_harder(key, effect) {
            return;
        }
        let generation = self.vehicle.key_generation.saturating_add(1);
        self.push(Event::KeyRevoked { key_id, generation, effect, at: now });
        let order = Order::RevokeKey { key_id, generation, effect };
        let expires_at = key.grant.not_after.max(now).plus_ms(REVOCATION_TAIL_MS);
        let command_id = CommandId((self.context.new_id)());
        self.issue(command_id, order, expires_at, Principal::gateway());
    }

    /// An immediate revocation of a key that was revoked to the next safe state, while that still makes a difference.
    pub(super) fn is_harder(&self, key: &Key, effect: RevocationEffect) -> bool {
        let key_id = key.grant.key_id;
        let is_told = self.vehicle.commands.iter().any(|command| {
            matches!(command.order,
                Order::RevokeKey { key_id: told, effect: RevocationEffect::Immediate, .. } if told == key_id)
        });
        effect == RevocationEffect::Immediate && !is_told && self.context.now <= key.grant.not_after
    }

    /// A function that is being taken away is not given back by a renter's key, however far the order has got.
    pub(super) fn is_being_disabled(&self, function: Function) -> bool {
        let newest = self.vehicle.commands.iter().rfind(|command| match command.order {
            Order::EnableFunction { function: of } | Order::DisableFunction { function: of } => {
                of == function && command.by.role != Role::Renter
            }
            _ => false,
        });
        newest.is_some_and(|command| {
            matches!(command.order, Order::DisableFunction { .. })
                && (!command.state.is_final() || command.state == CommandState::Unknown)
        })
    }

    pub(super) fn act(
        &mut self,
        id: CommandId,
        key_id: KeyId,
        function: Function,
        by: Principal,
    ) -> Result<(), Refusal> {
        let key = self.vehicle.key(key_id).ok_or_else(|| missing("key"))?;
        if by.role == Role::Renter && key.holder != by.subject {
            return Err(missing("key"));
        }
        key.permits_at(self.context.now, function).map_err(|refusal| match refusal {
            KeyRefusal::Prohibited => {
                Refusal::new(RefusalKind::Forbidden, format!("the key prohibits {}", function.name()))
            }
            KeyRefusal::NotYetValid => Refusal::new(RefusalKind::Forbidden, "the key is not valid yet"),
            KeyRefusal::Expired => Refusal::new(RefusalKind::Expired, "the key has expired"),
            KeyRefusal::Revoked | KeyRefusal::WrongGeneration => {
                Refusal::new(RefusalKind::Expired, "the key was revoked")
            }
        })?;
        if function == Function::Drive && key.grant.max_speed_kmh.is_some() {
            // Released from afar, the car would not know under which key it is driven.
            return refuse(RefusalKind::Forbidden, "a key with a speed limit drives by a use at the car only");
        }
        if self.vehicle.disabled.contains(function) || self.is_being_disabled(function) {
            return refuse(RefusalKind::Conflict, format!("{} is disabled on this vehicle", function.name()));
        }
        let order = match function {
            Function::UnlockDoors => Order::Unlock,
            Function::LockDoors => Order::Lock,
            Function::Locate => Order::Locate,
            Function::EnterCabin
            | Function::OpenTrunk
            | Function::Drive
            | Function::AccessoryPower
            | Function::Climate
            | Function::Infotainment
            | Function::Windows
            | Function::OpenGlovebox
            | Function::OpenFuelFlap
            | Function::OpenChargePort => Order::EnableFunction { function },
        };
        let is_overruled = |known: &Command| {
            known.by.role != Role::Renter && known.order.subject() == order.subject() && known.order != order
        };
        if by.role == Role::Renter && self.vehicle.open_commands().any(is_overruled) {
            return refuse(RefusalKind::Conflict, "an order of the fleet for the same is on its way to the car");
        }
        self.order(id, order, None, by)
    }

    pub(super) fn delegate(&mut self, key_id: KeyId, delegation: Delegation) -> Result<(), Refusal> {
        let key = self.vehicle.key(key_id).ok_or_else(|| missing("key"))?;
        if key.state(self.context.now) == KeyState::Revoked || delegation.not_after <= self.context.now {
            return refuse(RefusalKind::Expired, "the key is revoked or over");
        }
        if key.grant.max_delegation == 0 {
            return refuse(RefusalKind::Forbidden, "the key may not be handed on");
        }
        let is_within = delegation.permits.is_subset_of(key.grant.permits)
            // A token has whole seconds, rounded down.
            && delegation.not_before.as_secs() >= key.grant.not_before.as_secs()
            && delegation.not_after <= key.grant.not_after;
        if !is_within {
            return refuse(RefusalKind::Forbidden, "a key is handed on with no more than it permits");
        }
        if let Some(known) = key.delegation(delegation.key_id) {
            let is_same = Delegation { told_at: known.told_at, revoked_at: known.revoked_at, ..delegation } == *known;
            return if is_same { Ok(()) } else { refuse(RefusalKind::Conflict, "another key has that id") };
        }
        if self.vehicle.key(delegation.key_id).is_some() {
            return refuse(RefusalKind::Conflict, "another key has that id");
        }
        if key.delegations.len() >= Key::MAX_DELEGATIONS {
            return refuse(RefusalKind::VehicleBusy, format!("a key is handed on {} times", Key::MAX_DELEGATIONS));
        }
        self.push(Event::KeyDelegated { key_id, delegation });
        Ok(())
    }

    /// The car never heard of it, but takes it from nobody once its id is on the list.
    pub(super) fn revoke_delegation(
        &mut self,
        key_id: KeyId,
        delegated_key_id: KeyId,
        effect: RevocationEffect,
    ) -> Result<(), Refusal> {
        let key = self.vehicle.key(key_id).ok_or_else(|| missing("key"))?;
        let delegation = key.delegation(delegated_key_id).ok_or_else(|| missing("delegation"))?;
        if delegation.revoked_at.is_some() || key.revoked_at.is_some() {
            return Ok(());
        }
        let (at, generation) = (self.context.now, self.vehicle.key_generation.saturating_add(1));
        let expires_at = delegation.not_after.max(at).plus_ms(REVOCATION_TAIL_MS);
        self.push(Event::DelegationRevoked { key_id, delegated_key_id, generation, effect, at });
        let order = Order::RevokeKey { key_id: delegated_key_id, generation, effect };
        let command_id = CommandId((self.context.new_id)());
        self.issue(command_id, order, expires_at, Principal::gateway());
        Ok(())
    }
}
