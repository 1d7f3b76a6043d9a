//! Who may call what, as the document says it: `x-roles` of each operation. The handlers decide (`Caller::require`);
//! `tests/access_table.rs` asks each operation as everybody and compares.

use serde_json::{Value, json};

const STAFF: &[&str] = &["admin", "operator"];
const READERS: &[&str] = &["admin", "operator", "auditor"];
const TRUSTED: &[&str] = &["admin", "auditor"];
const ADMIN: &[&str] = &["admin"];
const ACTORS: &[&str] = &["admin", "operator", "renter"];
const RENTER: &[&str] = &["renter"];
const ALL: &[&str] = &["admin", "operator", "renter", "auditor"];

/// Operations that differ from the rule "staff change, readers read". What renters may, they may with their own.
const OTHERS: [(&str, &[&str]); 36] = [
    ("get_vehicles_available", ALL),
    ("get_commands", ALL),
    ("get_commands_id", ALL),
    ("delete_commands_id", ACTORS),
    ("get_usage_requests", ALL),
    ("post_usage_requests", ACTORS),
    ("get_usage_requests_id", ALL),
    ("get_rentals", ALL),
    ("get_rentals_id", ALL),
    ("post_rentals_id_end", ACTORS),
    ("post_rentals_id_cancel", ACTORS),
    ("post_rentals_id_extend", ACTORS),
    ("get_keys", ALL),
    ("get_keys_id", ALL),
    ("post_keys_id_actions", ACTORS),
    ("post_keys_id_delegations", ACTORS),
    ("delete_keys_id_delegations_delegated", ACTORS),
    ("get_confirmations", ALL),
    ("post_confirmations_id", RENTER),
    ("post_card_rules_try", READERS),
    ("post_console_tickets", READERS),
    ("get_api_keys", TRUSTED),
    ("post_api_keys", ADMIN),
    ("delete_api_keys_id", ADMIN),
    ("get_users", TRUSTED),
    ("post_users", ADMIN),
    ("patch_users_id", ADMIN),
    ("delete_users_id", ADMIN),
    ("delete_sessions", ADMIN),
    ("post_certificates_reload", ADMIN),
    ("get_audit", TRUSTED),
    ("get_audit_verification", TRUSTED),
    ("post_audit_verification", TRUSTED),
    ("get_session", ALL),
    ("delete_session", ALL),
    ("put_session_password", ALL),
];

/// Those who may, for each operation that asks who calls.
pub fn add(document: &mut Value) {
    for operation in super::operations_mut(document) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        // Open to all, but for the console: its callers may also come with a ticket, which the document cannot say.
        if operation.get("security").is_none() && id != "get_console" {
            continue;
        }
        // Cars are no role: they show a token or a certificate.
        if id.starts_with("post_well_known_est_") {
            continue;
        }
        let usual = if id.starts_with("get_") { READERS } else { STAFF };
        let roles = OTHERS.iter().find(|(other, _)| *other == id).map_or(usual, |(_, roles)| *roles);
        operation["x-roles"] = json!(roles);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_is_an_operation_and_an_exception() {
        let text = super::super::document().to_string();
        for (id, roles) in OTHERS {
            assert!(text.contains(&format!("\"operationId\":\"{id}\"")), "there is no {id}");
            assert_ne!(roles, if id.starts_with("get_") { READERS } else { STAFF }, "{id} is no exception");
        }
    }
}
