//! What `[notifier]` must be beyond its types. Values of secrets and URLs are not repeated in messages.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::check::Checks;
use super::{Config, Email, Notifier, Smtp, Webhook};

/// All targets together; each has a queue and up to four deliveries under way.
const MAX_TARGETS: usize = 32;
const MAX_SECRETS: usize = 4;
const MAX_TYPES: usize = 32;

pub(super) fn notifier(checks: &mut Checks, config: &Config) {
    let notifier = &config.notifier;
    checks.range("notifier.retry_for_s", notifier.retry_for_s, 1..=30 * 86_400);
    checks.range("notifier.timeout_ms", notifier.timeout_ms, 100..=60_000);
    checks.range("notifier.escalate_after_s", notifier.escalate_after_s, 1..=7 * 86_400);
    if jiff::tz::TimeZone::get(&notifier.time_zone).is_err() {
        let found = &notifier.time_zone;
        checks.refuse("notifier.time_zone", format!("{found:?} is no time zone; expected like Europe/Berlin, or UTC"));
    }
    let source = &notifier.source;
    if source.is_empty() || source.len() > 256 || !source.bytes().all(|b| b.is_ascii_graphic()) {
        checks.refuse("notifier.source", "no URI reference; expected 1 to 256 printable ASCII characters");
    }
    names(checks, notifier);
    for webhook in &notifier.webhooks {
        self::webhook(checks, webhook);
    }
    for email in &notifier.emails {
        self::email(checks, email);
    }
    smtp(checks, &notifier.smtp, !notifier.emails.is_empty());
}

fn names(checks: &mut Checks, notifier: &Notifier) {
    let webhooks = notifier.webhooks.iter().map(|webhook| ("notifier.webhooks", &webhook.name));
    let emails = notifier.emails.iter().map(|email| ("notifier.emails", &email.name));
    let mut seen = BTreeSet::new();
    for (key, name) in webhooks.chain(emails) {
        let is_name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_name_byte) {
            checks.refuse(key, format!("{name:?} is no target's name; expected 1 to 32 of a-z 0-9 _ -"));
        }
        if !seen.insert(name) {
            checks.refuse(key, format!("two targets are named {name:?}; expected each name once"));
        }
    }
    if seen.len() > MAX_TARGETS {
        checks.refuse("notifier.webhooks", format!("{} targets; expected at most {MAX_TARGETS}", seen.len()));
    }
}

fn webhook(checks: &mut Checks, webhook: &Webhook) {
    const KEY: &str = "notifier.webhooks";
    let name = &webhook.name;
    if !is_https(&webhook.url) || webhook.url.len() > 2_048 {
        checks
            .refuse(KEY, format!("{name}: the url must be https (http to a loopback address only), without a log-in"));
    }
    if webhook.secrets.is_empty() || webhook.secrets.len() > MAX_SECRETS {
        let count = webhook.secrets.len();
        checks.refuse(KEY, format!("{name}: {count} secrets; expected 1 to {MAX_SECRETS}"));
    }
    if !webhook.secrets.iter().all(|secret| webhook_key(secret).is_some()) {
        checks.refuse(KEY, format!("{name}: a secret has not the form whsec_<base64 of 16 to 64 bytes>"));
    }
    let is_type = |text: &String| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if webhook.types.len() > MAX_TYPES || !webhook.types.iter().all(is_type) {
        checks.refuse(KEY, format!("{name}: types must be at most {MAX_TYPES} beginnings like \"cardea.alert.\""));
    }
}

/// An address to call: https, or http to a loopback address, without a log-in in it.
pub(super) fn is_https(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        let has_no_log_in = url.username().is_empty() && url.password().is_none();
        has_no_log_in && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))
    })
}

fn is_loopback(url: &reqwest::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// The bytes that sign; `None` when the secret has another form.
pub(super) fn webhook_key(secret: &str) -> Option<Vec<u8>> {
    let key = STANDARD.decode(secret.strip_prefix("whsec_")?).ok()?;
    (16..=64).contains(&key.len()).then_some(key)
}

fn email(checks: &mut Checks, email: &Email) {
    const KEY: &str = "notifier.emails";
    let Email { name, to, escalation, .. } = email;
    if to.parse::<lettre::message::Mailbox>().is_err() {
        checks.refuse(KEY, format!("{name}: {to:?} is no e-mail address"));
    }
    if *escalation > Email::MAX_ESCALATION {
        checks.refuse(KEY, format!("{name}: escalation {escalation}; expected 0 to {}", Email::MAX_ESCALATION));
    }
}

fn smtp(checks: &mut Checks, smtp: &Smtp, is_needed: bool) {
    checks.range("notifier.smtp.port", smtp.port, 1..=u64::from(u16::MAX));
    let is_host =
        |host: &str| host.len() <= 253 && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
    if !is_host(&smtp.host) || (is_needed && smtp.host.is_empty()) {
        checks.refuse("notifier.smtp.host", format!("{:?} is no mail server's name, which e-mails need", smtp.host));
    }
    if (is_needed || !smtp.from.is_empty()) && smtp.from.parse::<lettre::message::Mailbox>().is_err() {
        checks.refuse("notifier.smtp.from", format!("{:?} is no e-mail address, which e-mails need", smtp.from));
    }
    if smtp.user.is_empty() != smtp.password.is_empty() {
        checks.refuse("notifier.smtp.user", "expected both user and password, or neither");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Language, Level, SmtpTls, parse};

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn found(text: &str) -> String {
        match parse(text, Path::new("fleet/cardea.toml"), &[]) {
            Ok(config) => {
                assert!(!format!("{config:?}").contains("topsecret"));
                String::new()
            }
            Err(error) => error.to_string(),
        }
    }

    fn webhook(rest: &str) -> String {
        format!("[[notifier.webhooks]]\nname = \"desk\"\n{rest}\n")
    }

    fn with_url(url: &str) -> String {
        found(&webhook(&format!("url = \"{url}\"\nsecrets = [\"{SECRET}\"]")))
    }

    #[test]
    fn a_webhook_is_https_or_goes_nowhere() {
        for fit in ["https://example.org/x", "http://127.0.0.1:9/x", "http://[::1]:9/", "http://localhost/"] {
            assert_eq!(with_url(fit), "", "{fit}");
        }
        for unfit in ["http://example.org/topsecret", "ftp://127.0.0.1/", "https://u:topsecret@example.org/", "x", ""] {
            let found = with_url(unfit);
            assert!(found.contains("the url must be https") && !found.contains("topsecret"), "{unfit}: {found}");
        }
    }

    #[test]
    fn a_secret_has_the_form_of_the_standard_and_is_never_shown() {
        for unfit in ["[]", "[\"topsecret\"]", "[\"whsec_topsecret\"]", "[5, \"topsecret\"]", "\"topsecret\""] {
            let found = found(&webhook(&format!("url = \"https://example.org\"\nsecrets = {unfit}")));
            assert!(found.contains("notifier.webhooks") && !found.contains("topsecret"), "{unfit}: {found}");
        }
        let found = found("[notifier.smtp]\npassword = [\"topsecret\"]");
        assert!(found.contains("notifier.smtp.password") && !found.contains("topsecret"), "{found}");
    }

    #[test]
    fn targets_have_names_of_their_own_and_what_they_need() {
        let one = webhook(&format!("url = \"https://example.org\"\nsecrets = [\"{SECRET}\"]"));
        assert!(found(&one.repeat(2)).contains("two targets are named"));
        assert!(found(&one.replace("desk", "The Desk")).contains("no target's name"));
        let email = "[[notifier.emails]]\nname = \"a\"\nto = \"a@example.org\"\n";
        assert!(found(email).contains("notifier.smtp.host"));
        let smtp = "[notifier.smtp]\nhost = \"mail\"\nfrom = \"Cardea <c@example.org>\"\n";
        assert_eq!(found(&format!("{email}{smtp}")), "");
        assert!(found(&format!("{}{smtp}", email.replace("a@", "a"))).contains("is no e-mail address"));
        assert!(found(&format!("{email}escalation = 9\n{smtp}")).contains("expected 0 to 3"));
        assert!(found(&format!("{email}{smtp}user = \"u\"\n")).contains("both user and password"));
        assert!(found("[notifier]\ntime_zone = \"Mars/Base\"").contains("no time zone"));
    }

    #[test]
    fn what_the_shipped_file_shows_can_be_written() {
        let text = include_str!("../../config/cardea.toml");
        let begin = text.find("#   [[notifier.webhooks]]").unwrap();
        let end = text.find("\n[notifier]").unwrap();
        let shown: String =
            text[begin..end].lines().map(|line| line.trim_start_matches("#   ").to_owned() + "\n").collect();
        let shown = shown.replace("whsec_<base64>", SECRET);
        let smtp = "[notifier.smtp]\nhost = \"mail\"\nfrom = \"c@example.org\"\ntls = \"implicit\"\n";
        let config = parse(&format!("{shown}{smtp}"), Path::new("c.toml"), &[]).unwrap().notifier;
        assert_eq!((config.webhooks.len(), config.emails.len()), (1, 1));
        assert_eq!((config.emails[0].language, config.emails[0].min_severity), (Language::De, Level::Warning));
        assert_eq!((config.emails[0].escalation, config.smtp.tls), (1, SmtpTls::Implicit));
    }
}
