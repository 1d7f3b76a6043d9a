//! Who may have the car: requests, approvals, rentals from their begin to their end.

use super::{Draft, missing, refuse};
use crate::domain::card::{Alert, AlertKind};
use crate::domain::command::{CommandState, Order};
use crate::domain::gauge::Fall;
use crate::domain::key::{Key, KeyGrant, Profile};
use crate::domain::rental::{Approval, Lending, Rental, RentalPassage, RentalState, RequestState, UsageRequest};
use crate::domain::twin::path;
use crate::domain::vehicle::{Event, Vehicle};
use crate::domain::{
    AlertId, CommandId, Function, Functions, KeyId, Principal, Refusal, RefusalKind, RentalId, RequestId, Role,
    Timestamp,
};

/// A request may begin this far back: phones' clocks lag, and "now" is a moment ago when it arrives.
const LATE_START_MS: i64 = 300_000;

const MAX_OPEN_RENTALS: usize = 32;

/// A position older than this says nothing about where the car is returned.
const FRESH_MS: i64 = 600_000;

impl Draft<'_> {
    pub(super) fn request_usage(&mut self, request: UsageRequest) -> Result<(), Refusal> {
        let (now, rules) = (self.context.now, self.context.rules);
        let lending = self.vehicle.details.lending.clone().unwrap_or_default();
        let is_lent = lending.profiles.is_empty() || lending.profiles.contains(&request.profile);
        let Some(profile) = rules.profiles.iter().find(|profile| profile.name == request.profile).filter(|_| is_lent)
        else {
            return refuse(
                RefusalKind::ProfileNotAllowed,
                format!("the vehicle is not lent under the profile {}", request.profile),
            );
        };
        self.carried_by_car(profile)?;
        if request.until <= request.from {
            return refuse(RefusalKind::Invalid, "until: later than from");
        }
        if request.until <= now || request.from < now.plus_ms(-LATE_START_MS) {
            return refuse(RefusalKind::Invalid, "from: not in the past");
        }
        self.is_lent(request.from, request.until)?;
        self.is_free(request.from, request.until, None)?;
        let open = self.vehicle.requests.iter().filter(|known| known.state == RequestState::Requested).count();
        if open >= Vehicle::MAX_OPEN_REQUESTS {
            return refuse(RefusalKind::VehicleBusy, format!("{open} requests wait for the owner"));
        }
        self.push(Event::UsageRequested { request: request.clone() });
        match lending.approval {
            Approval::Auto => self.approve(&request),
            Approval::Owner => Ok(()),
        }
    }

    /// The functions a key of this profile carries on this car. A car has a fuel flap or a charge port, seldom both:
    /// the one it lacks is left out. Any other missing function refuses the key.
    pub(super) fn carried_by_car(&self, profile: &Profile) -> Result<Functions, Refusal> {
        let capabilities = self.vehicle.capabilities();
        let inlets = Functions::NONE.with(Function::OpenFuelFlap).with(Function::OpenChargePort);
        let mut permits = profile.permits;
        for function in profile.permits.iter().filter(|function| !capabilities.contains(*function)) {
            if !inlets.contains(function) {
                return refuse(RefusalKind::CapabilityMissing, format!("the vehicle has no {}", function.name()));
            }
            permits = permits.without(function);
        }
        Ok(permits)
    }

    /// May anybody have it for so long, and then?
    fn is_lent(&self, from: Timestamp, until: Timestamp) -> Result<(), Refusal> {
        let lending = self.vehicle.details.lending.clone().unwrap_or_default();
        let limit = self.context.rules.max_key_ms;
        let minutes = lending.max_minutes.and_then(|minutes| i64::try_from(minutes).ok());
        let max_ms = minutes.map_or(limit, |minutes| minutes.saturating_mul(60_000).min(limit));
        if until.since_ms(from) > max_ms {
            let detail = format!("the vehicle is lent for at most {} min", max_ms / 60_000);
            return refuse(RefusalKind::NotAvailable, detail);
        }
        if !lending.allows(from, until) {
            return refuse(RefusalKind::NotAvailable, "the vehicle is not lent at that time");
        }
        Ok(())
    }

    /// Is nobody else's rental in the way?
    fn is_free(&self, from: Timestamp, until: Timestamp, own: Option<RentalId>) -> Result<(), Refusal> {
        let mut others = self
            .vehicle
            .rentals
            .iter()
            .filter(|rental| rental.state.is_open() && own.is_none_or(|own| rental.rental_id != own));
        if others.clone().count() >= MAX_OPEN_RENTALS {
            return refuse(RefusalKind::VehicleBusy, format!("{MAX_OPEN_RENTALS} rentals are open"));
        }
        match others.find(|rental| rental.overlaps(from, until)) {
            Some(taken) => refuse(
                RefusalKind::NotAvailable,
                format!("the vehicle is taken from {} to {}", taken.from, taken.until),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn open_request(&self, id: RequestId) -> Result<UsageRequest, Refusal> {
        let request = self.vehicle.usage_request(id).ok_or_else(|| missing("request"))?;
        match request.state {
            RequestState::Requested => Ok(request.clone()),
            RequestState::Expired => refuse(RefusalKind::Expired, "the requested time is over"),
            RequestState::Approved | RequestState::Declined => {
                refuse(RefusalKind::Conflict, "the request was decided already")
            }
        }
    }

    pub(super) fn approve(&mut self, request: &UsageRequest) -> Result<(), Refusal> {
        let (now, rules) = (self.context.now, self.context.rules);
        if request.until <= now {
            return refuse(RefusalKind::Expired, "the requested time is over");
        }
        self.is_free(request.from, request.until, None)?;
        let Some(profile) = rules.profiles.iter().find(|profile| profile.name == request.profile) else {
            return refuse(RefusalKind::ProfileNotAllowed, "the profile is no longer configured");
        };
        let permits = self.carried_by_car(profile)?;
        self.has_room()?;
        let rental_id = RentalId((self.context.new_id)());
        let key_id = KeyId((self.context.new_id)());
        let grant = KeyGrant {
            key_id,
            holder_key: request.holder_key.clone(),
            permits,
            not_before: request.from,
            not_after: request.until,
            generation: self.vehicle.key_generation,
            geofence: None,
            max_delegation: profile.max_delegation,
            max_speed_kmh: profile.max_speed_kmh,
        };
        let state = RentalState::Reserved;
        self.push(Event::UsageDecided { request_id: request.request_id, state: RequestState::Approved, at: now });
        self.push(Event::RentalReserved {
            rental: Rental {
                rental_id,
                request_id: request.request_id,
                renter: request.renter.clone(),
                profile: request.profile.clone(),
                key_id,
                from: request.from,
                until: request.until,
                state,
                history: vec![RentalPassage { state, at: now }],
                first_used_at: None,
                is_late: false,
            },
        });
        let lease_ms = self.vehicle.details.lending.as_ref().and_then(Lending::lease_ms);
        // Also where it is longer than the rental, which may be made longer still.
        let leased_until = lease_ms.map(|ms| request.from.max(now).plus_ms(ms).min(request.until));
        let key = Key {
            grant,
            rental_id,
            holder: request.renter.clone(),
            profile: request.profile.clone(),
            issued_at: now,
            delivered_at: None,
            revoked_at: None,
            leased_until,
            delegations: Vec::new(),
        };
        self.push(Event::KeyGranted { key: key.clone() });
        self.tell_car_of(&key);
        self.start_and_end_rentals();
        Ok(())
    }

    /// How far outside of its return area the car is; `None` when it is inside, has none, or it is not known.
    fn outside_return_area(&self) -> Option<f64> {
        let area = self.vehicle.details.lending.as_ref()?.return_area?;
        let fix = self.context.twin.fix().filter(|fix| self.context.now.since_ms(fix.at) <= FRESH_MS)?;
        let beyond_m = area.distance_m(fix.position) - area.radius_m - fix.accuracy_m.unwrap_or(0.0);
        (beyond_m > 0.0).then_some(beyond_m)
    }

    /// Only a car with a sensor says so, and only when it changes. What was missing before the rental was told then.
    fn is_fuel_card_missing(&self, since: Timestamp) -> bool {
        let told = self.context.twin.signal(path::FUEL_CARD_PRESENT).filter(|signal| signal.at >= since);
        told.and_then(|signal| signal.value.as_bool()) == Some(false)
    }

    /// A car that drives on after its rental is not stopped: people are told.
    pub(super) fn tell_of_late_returns(&mut self) {
        let now = self.context.now;
        let late = self.vehicle.rentals.iter().filter(|rental| rental.late_at().is_some_and(|at| at <= now));
        for rental in late.cloned().collect::<Vec<_>>() {
            let why = match self.context.twin.is_online() {
                true => "it has not come to rest with ignition off",
                false => "it has no connection, and may still open for the key until that ends",
            };
            let ended_at = rental.closed_at().unwrap_or(rental.until);
            let head = format!("Vehicle {}: its rental ended at {ended_at}, and ", self.vehicle.vehicle_id);
            self.doubt_return(AlertKind::LateReturn, rental.rental_id, format!("{head}{why}."));
        }
    }

    /// Fuel that leaves a standing car was bought rightly, and goes elsewhere or into the ground.
    pub(super) fn tell_of_fuel_that_fell(&mut self) {
        let Some(fall) = self.vehicle.untold_fall(self.context.twin) else { return };
        let Fall { from, to } = fall;
        // Whoever had it all the time; one that began in between says nothing.
        let had_it = |rental: &&Rental| rental.state == RentalState::Active && rental.from <= from.at;
        let rental = self.vehicle.rentals.iter().find(had_it);
        let litres = self.vehicle.tank_litres().map(|tank| (from.percent - to.percent) / 100.0 * tank);
        let litres = litres.map_or_else(String::new, |litres| format!(", about {litres:.0} l,"));
        let text = format!(
            "Vehicle {}: its fuel level fell from {:.0} % to {:.0} %{litres} while it stood, between {} and {}.",
            self.vehicle.vehicle_id, from.percent, to.percent, from.at, to.at
        );
        let (alert_id, at) = (AlertId((self.context.new_id)()), self.context.now);
        let vehicle_id = self.vehicle.vehicle_id.clone();
        let rental_id = rental.map(|rental| rental.rental_id);
        let alert = Alert::for_vehicle(alert_id, AlertKind::FuelFell, vehicle_id, rental_id, text, at);
        self.push(Event::FuelFell { measured_at: to.at, alert });
    }

    fn doubt_return(&mut self, kind: AlertKind, rental_id: RentalId, text: String) {
        let (alert_id, at) = (AlertId((self.context.new_id)()), self.context.now);
        let alert = Alert::for_vehicle(alert_id, kind, self.vehicle.vehicle_id.clone(), Some(rental_id), text, at);
        self.push(Event::ReturnDoubted { rental_id, alert });
    }

    /// A later end of a running or coming rental, on the same terms as a new one. The key stays the same key: the car and
    /// the phone get it with its new end.
    pub(super) fn extend(&mut self, id: RentalId, until: Timestamp, by: &Principal) -> Result<(), Refusal> {
        let now = self.context.now;
        let rental = self.vehicle.rental(id).cloned().ok_or_else(|| missing("rental"))?;
        if by.role == Role::Renter && by.subject != rental.renter {
            return Err(missing("rental"));
        }
        if !rental.state.is_open() || rental.until <= now {
            return refuse(RefusalKind::Conflict, "the rental is over");
        }
        if until == rental.until {
            return Ok(());
        }
        if until < rental.until {
            return refuse(RefusalKind::Invalid, "until: later than now; a rental that is over early is ended");
        }
        let needs_owner = self.vehicle.details.lending.as_ref().is_some_and(|lent| lent.approval == Approval::Owner);
        if needs_owner && by.role == Role::Renter {
            return refuse(RefusalKind::Forbidden, "the owner decides on a longer rental of this vehicle");
        }
        let key = self.vehicle.key(rental.key_id).filter(|key| key.revoked_at.is_none());
        if key.is_none() {
            return refuse(RefusalKind::Conflict, "the key was revoked");
        }
        self.is_lent(rental.from, until)?;
        self.is_free(rental.from, until, Some(id))?;
        self.has_room()?;
        self.push(Event::RentalExtended { rental_id: id, key_id: rental.key_id, until, at: now });
        if let Some(key) = self.vehicle.key(rental.key_id).cloned() {
            self.tell_car_of(&key);
        }
        Ok(())
    }

    /// Brings a key to the car, for as long as the car may hold it without hearing of it again.
    fn tell_car_of(&mut self, key: &Key) {
        let grant = key.leased();
        let expires_at = grant.not_after;
        let command_id = CommandId((self.context.new_id)());
        self.issue(command_id, Order::GrantKey { key: grant }, expires_at, Principal::gateway());
    }

    /// A lease is renewed at its half, while the car is there and the key is still good.
    pub(super) fn renew_leases(&mut self) {
        let now = self.context.now;
        if !self.context.twin.is_online() {
            return;
        }
        let lease_ms = self.vehicle.details.lending.as_ref().and_then(Lending::lease_ms);
        let due = self.vehicle.keys.iter().filter(|key| self.vehicle.renew_at(key).is_some_and(|at| at <= now));
        for key in due.map(|key| key.grant.clone()).collect::<Vec<_>>() {
            let until = lease_ms.map_or(key.not_after, |ms| now.plus_ms(ms).min(key.not_after));
            self.push(Event::KeyLeased { key_id: key.key_id, until });
            if let Some(renewed) = self.vehicle.key(key.key_id).cloned() {
                self.tell_car_of(&renewed);
            }
        }
    }

    pub(super) fn note_key_used(&mut self, key_id: KeyId) {
        let at = self.context.now;
        let unused =
            self.vehicle.rentals.iter().find(|rental| rental.key_id == key_id && rental.first_used_at.is_none());
        if let Some(rental_id) = unused.map(|rental| rental.rental_id) {
            self.push(Event::RentalUsed { rental_id, at });
        }
    }

    /// Somebody drove: where that was told late, it counts for the rental that runs now.
    pub(super) fn note_driven(&mut self) {
        if let Some(rental_id) = self.unused_rental().map(|rental| rental.rental_id) {
            let at = self.context.now;
            self.push(Event::RentalUsed { rental_id, at });
        }
    }

    /// The running rental whose car nobody has used yet.
    fn unused_rental(&self) -> Option<&Rental> {
        let is_unused = |rental: &&Rental| rental.state == RentalState::Active && rental.first_used_at.is_none();
        self.vehicle.rentals.iter().find(is_unused)
    }

    /// A running rental's car was seen in use: by its ignition, or by what its renter asked for from afar.
    pub(super) fn note_use(&mut self) {
        let Some(rental) = self.unused_rental() else { return };
        let is_driven = self.context.twin.is_ignition_on().is_some_and(|(is_on, at)| is_on && at >= rental.from);
        let is_opened = self.vehicle.commands.iter().any(|command| {
            command.state == CommandState::Succeeded
                && command.by.role == Role::Renter
                && command.by.subject == rental.renter
                && command.issued_at >= rental.from
        });
        if is_driven || is_opened {
            let (rental_id, at) = (rental.rental_id, self.context.now);
            self.push(Event::RentalUsed { rental_id, at });
        }
    }

    /// A renter brings the car back to where it belongs first, where the car says that it is elsewhere.
    pub(super) fn end_rental(&mut self, id: RentalId, by: &Principal) -> Result<(), Refusal> {
        let rental = self.vehicle.rental(id).cloned().ok_or_else(|| missing("rental"))?;
        match rental.state {
            RentalState::Active => {
                if let Some(away_m) = self.outside_return_area().filter(|_| by.role == Role::Renter) {
                    let detail = format!("the vehicle is {:.1} km outside of its return area", away_m / 1000.0);
                    return refuse(RefusalKind::Conflict, detail);
                }
                self.close(&rental);
                Ok(())
            }
            RentalState::Reserved => refuse(RefusalKind::Conflict, "the rental has not begun: cancel it"),
            RentalState::Cancelled => refuse(RefusalKind::Conflict, "the rental was cancelled"),
            RentalState::NoShow => refuse(RefusalKind::Conflict, "the rental is over: nobody came for the vehicle"),
            RentalState::Ending | RentalState::Ended => Ok(()),
        }
    }

    pub(super) fn cancel_rental(&mut self, id: RentalId) -> Result<(), Refusal> {
        let rental = self.vehicle.rental(id).cloned().ok_or_else(|| missing("rental"))?;
        match rental.state {
            RentalState::Reserved => {
                self.push(Event::RentalMoved { rental_id: id, state: RentalState::Cancelled, at: self.context.now });
                self.revoke_by_id(rental.key_id);
                Ok(())
            }
            RentalState::Active | RentalState::Ending => refuse(RefusalKind::Conflict, "the rental has begun: end it"),
            RentalState::Ended | RentalState::NoShow => refuse(RefusalKind::Conflict, "the rental has ended"),
            RentalState::Cancelled => Ok(()),
        }
    }

    /// Over for the renter: the key goes, but never under a driving car.
    pub(super) fn close(&mut self, rental: &Rental) {
        let at = self.context.now;
        self.push(Event::RentalMoved { rental_id: rental.rental_id, state: RentalState::Ending, at });
        self.revoke_by_id(rental.key_id);
        self.finish_endings();
    }

    pub(super) fn expire_requests(&mut self) {
        let now = self.context.now;
        let due: Vec<RequestId> = self
            .vehicle
            .requests
            .iter()
            .filter(|request| request.state == RequestState::Requested && request.until <= now)
            .map(|request| request.request_id)
            .collect();
        for request_id in due {
            self.push(Event::UsageDecided { request_id, state: RequestState::Expired, at: now });
        }
    }

    pub(super) fn start_and_end_rentals(&mut self) {
        let now = self.context.now;
        for rental in self.vehicle.rentals.clone() {
            if rental.state == RentalState::Reserved && rental.from <= now {
                self.push(Event::RentalMoved { rental_id: rental.rental_id, state: RentalState::Active, at: now });
            }
            if rental.state.is_open() && rental.until <= now {
                self.close(&rental);
                continue;
            }
            let is_active = self.vehicle.rental(rental.rental_id).is_some_and(|now| now.state == RentalState::Active);
            if is_active && self.vehicle.no_show_at(&rental, self.context.twin).is_some_and(|at| at <= now) {
                self.push(Event::RentalMoved { rental_id: rental.rental_id, state: RentalState::NoShow, at: now });
                self.revoke_by_id(rental.key_id);
            }
        }
    }

    /// A rental has ended once nothing is left to tell the car about its key.
    pub(super) fn finish_endings(&mut self) {
        let now = self.context.now;
        let is_revoking = |key_id: KeyId| {
            self.vehicle
                .open_commands()
                .any(|command| matches!(command.order, Order::RevokeKey { key_id: revoked, .. } if revoked == key_id))
        };
        let ended: Vec<RentalId> = self
            .vehicle
            .rentals
            .iter()
            .filter(|rental| rental.state == RentalState::Ending && !is_revoking(rental.key_id))
            .map(|rental| rental.rental_id)
            .collect();
        for rental_id in ended {
            self.push(Event::RentalMoved { rental_id, state: RentalState::Ended, at: now });
            // Where the next one has it already, its place says nothing about this one.
            let is_taken = self.vehicle.rentals.iter().any(|other| other.state == RentalState::Active);
            if let Some(away_m) = self.outside_return_area().filter(|_| !is_taken) {
                let away_km = away_m / 1000.0;
                let text = format!(
                    "Vehicle {}: its rental has ended {away_km:.1} km outside of its return area.",
                    self.vehicle.vehicle_id
                );
                self.doubt_return(AlertKind::OutsideReturnArea, rental_id, text);
            }
            let began = self.vehicle.rental(rental_id).map_or(now, |rental| rental.from);
            if !is_taken && self.is_fuel_card_missing(began) {
                let vehicle = &self.vehicle.vehicle_id;
                let text = format!("Vehicle {vehicle}: its rental has ended and its fuel card is not in the holder.");
                self.doubt_return(AlertKind::CardMissing, rental_id, text);
            }
        }
    }
}
