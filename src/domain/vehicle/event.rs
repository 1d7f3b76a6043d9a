//! What can happen to a vehicle's record, in the past tense, and what can be asked of it, in the imperative.
//!
//! Events are the journal's content: a variant or field, once released, keeps its name and meaning.

use serde::{Deserialize, Serialize};

use crate::domain::card::Alert;
use crate::domain::command::{Ack, Command, CommandState, Fact, Order};
use crate::domain::key::{Delegation, HolderKey, Key, RevocationEffect};
use crate::domain::rental::{Lending, Rental, RentalState, RequestState, UsageRequest};
use crate::domain::{CommandId, Function, Functions, KeyId, Principal, RentalId, RequestId, Timestamp};

/// What an operator says of a vehicle.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tank_litres: Option<f64>,
    /// The fleet's own word for its kind (`van`); the card guard has thresholds by class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Overridden by what the unit itself reports at boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Functions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lending: Option<Lending>,
}

/// What can be asked of a vehicle. Ids of what shall be made come from [`super::Context::new_id`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A vehicle that registered itself by connecting is taken over; one registered by an operator is a conflict.
    Register {
        details: Details,
        by: Principal,
    },
    /// Fields that are `None` stay as they are.
    Change {
        details: Details,
    },
    Order {
        command_id: CommandId,
        order: Order,
        ttl_ms: Option<i64>,
        by: Principal,
    },
    Cancel {
        command_id: CommandId,
    },
    Use {
        request_id: RequestId,
        renter: String,
        profile: String,
        from: Timestamp,
        until: Timestamp,
        holder_key: HolderKey,
    },
    Approve {
        request_id: RequestId,
    },
    Decline {
        request_id: RequestId,
    },
    EndRental {
        rental_id: RentalId,
        by: Principal,
    },
    CancelRental {
        rental_id: RentalId,
    },
    /// A later end, with the key re-granted to it.
    Extend {
        rental_id: RentalId,
        until: Timestamp,
        by: Principal,
    },
    Revoke {
        key_id: KeyId,
        effect: RevocationEffect,
    },
    /// The holder tells of a key that they made of this one; its token was verified.
    Delegate {
        key_id: KeyId,
        delegation: Delegation,
    },
    RevokeDelegation {
        key_id: KeyId,
        delegated_key_id: KeyId,
        effect: RevocationEffect,
    },
    /// The renter's remote path: the key's holder asks for a function.
    Act {
        command_id: CommandId,
        key_id: KeyId,
        function: Function,
        by: Principal,
    },
    /// The car answered.
    Ack(Ack),
    /// The car told of something that must not be lost.
    Fact(Fact),
    /// The commands were, or are about to be, handed to the car's session.
    Sent {
        command_ids: Vec<CommandId>,
    },
    /// They were not, after all.
    NotSent {
        command_ids: Vec<CommandId>,
    },
    /// The car's MQTT acknowledgement.
    Delivered {
        command_id: CommandId,
    },
    LinkUp,
    LinkDown,
    /// Time passed or the car was seen: expiries, starts and ends of rentals, releases, settlements.
    Review,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    VehicleRegistered {
        details: Details,
        by: Principal,
        at: Timestamp,
    },
    VehicleChanged {
        details: Details,
    },
    CommandAccepted {
        command: Command,
    },
    CommandMoved {
        command_id: CommandId,
        state: CommandState,
        at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    FactTaken {
        fact: Fact,
    },
    UsageRequested {
        request: UsageRequest,
    },
    UsageDecided {
        request_id: RequestId,
        state: RequestState,
        at: Timestamp,
    },
    RentalReserved {
        rental: Rental,
    },
    RentalMoved {
        rental_id: RentalId,
        state: RentalState,
        at: Timestamp,
    },
    /// The key ends with it.
    RentalExtended {
        rental_id: RentalId,
        key_id: KeyId,
        until: Timestamp,
        at: Timestamp,
    },
    RentalUsed {
        rental_id: RentalId,
        at: Timestamp,
    },
    /// Its end needs somebody to look at it.
    ReturnDoubted {
        rental_id: RentalId,
        alert: Alert,
    },
    /// The level fell while the car stood.
    FuelFell {
        /// When the lower level was measured.
        measured_at: Timestamp,
        alert: Alert,
    },
    KeyGranted {
        key: Key,
    },
    /// The car is told again, for so long.
    KeyLeased {
        key_id: KeyId,
        until: Timestamp,
    },
    KeyDelegated {
        key_id: KeyId,
        delegation: Delegation,
    },
    DelegationRevoked {
        key_id: KeyId,
        delegated_key_id: KeyId,
        generation: u32,
        effect: RevocationEffect,
        at: Timestamp,
    },
    KeyDelivered {
        key_id: KeyId,
        at: Timestamp,
    },
    KeyRevoked {
        key_id: KeyId,
        generation: u32,
        effect: RevocationEffect,
        at: Timestamp,
    },
}
