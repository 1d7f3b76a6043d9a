//! The rules' text form: TOML, as in `config/card-rules.toml`, read into a checked book and written back.
//!
//! A file says only what differs: what it leaves out is as built in, and a vehicle class leaves out what is as in the
//! fleet. Sections are merged key by key; a key's value, be it a policy or a map of currencies, is taken whole.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::domain::card::{RuleBook, Rules};

/// `config/card-rules.toml`: the rules where the operator names no other file.
pub const BUILT_IN_RULES: &str = include_str!("../../../config/card-rules.toml");
/// Many times the built-in text with a table for every class; a row of the view holds it.
const MAX_TEXT_LEN: usize = 64 * 1024;
const CLASS: &str = "class";
const VEHICLE_CLASS: &str = "vehicle_class";

/// The rules as built in.
pub fn built_in_rules() -> Result<RuleBook, String> {
    parse_rules(BUILT_IN_RULES)
}

/// Reads a rules file; the error names the key and, where there is one, the line.
pub fn parse_rules(text: &str) -> Result<RuleBook, String> {
    if text.len() > MAX_TEXT_LEN {
        return Err(format!("a rules file has at most {MAX_TEXT_LEN} bytes"));
    }
    read(text).map_err(|wrong| wrong.in_text(text))
}

/// Writes a book so that [`parse_rules`] reads the same one: the fleet's rules whole, of each class what differs.
pub fn rules_text(book: &RuleBook) -> Result<String, String> {
    let table = |rules: &Rules| Table::try_from(rules).map_err(|error| error.to_string());
    let mut whole = table(&book.fleet)?;
    let mut classes = Table::new();
    for (name, rules) in &book.classes {
        let mut of_class = table(rules)?;
        of_class.remove(VEHICLE_CLASS);
        classes.insert(name.clone(), Value::Table(difference(&whole, of_class)));
    }
    if !classes.is_empty() {
        whole.insert(CLASS.into(), Value::Table(classes));
    }
    toml::to_string(&whole).map_err(|error| error.to_string())
}

/// What is wrong, and where.
enum Wrong {
    Syntax(toml::de::Error),
    Key { path: Vec<String>, problem: String },
}

impl From<toml::de::Error> for Wrong {
    fn from(error: toml::de::Error) -> Self {
        Self::Syntax(error)
    }
}

impl Wrong {
    fn key<T>(path: &[&str], problem: impl fmt::Display) -> Result<T, Self> {
        Err(Self::Key { path: path.iter().map(|part| (*part).to_owned()).collect(), problem: problem.to_string() })
    }

    fn in_text(&self, text: &str) -> String {
        match self {
            Self::Syntax(error) => error.to_string().trim_end().to_owned(),
            Self::Key { path, problem } => match line_of(text, path) {
                Some(line) => format!("line {line}: {}: {problem}", path.join(".")),
                None => format!("{}: {problem}", path.join(".")),
            },
        }
    }
}

fn read(text: &str) -> Result<RuleBook, Wrong> {
    let mut file: Table = text.parse()?;
    let classes = match file.remove(CLASS) {
        None => Table::new(),
        Some(Value::Table(classes)) if classes.len() <= RuleBook::MAX_CLASSES => classes,
        Some(Value::Table(_)) => return Wrong::key(&[CLASS], format!("at most {} classes", RuleBook::MAX_CLASSES)),
        Some(_) => return Wrong::key(&[CLASS], "a table for each vehicle class, like [class.van.location]"),
    };
    if file.contains_key(VEHICLE_CLASS) {
        return Wrong::key(&[VEHICLE_CLASS], "a class's rules are in [class.NAME]");
    }
    let fleet = merged(BUILT_IN_RULES.parse()?, file);
    let mut of_classes = BTreeMap::new();
    for (name, of_class) in classes {
        let Value::Table(mut of_class) = of_class else {
            return Wrong::key(&[CLASS, &name], "a table, like [class.van.location]");
        };
        if name.len() > RuleBook::MAX_CLASS_LEN {
            return Wrong::key(&[CLASS, &name], format!("at most {} bytes", RuleBook::MAX_CLASS_LEN));
        }
        if let Some(key) = ["version", CLASS, VEHICLE_CLASS].into_iter().find(|key| of_class.contains_key(*key)) {
            return Wrong::key(&[CLASS, &name, key], "is the whole book's, not a class's");
        }
        of_class.insert(VEHICLE_CLASS.into(), Value::String(name.clone()));
        let rules = checked(merged(fleet.clone(), of_class), &[CLASS, &name])?;
        of_classes.insert(name, rules);
    }
    Ok(RuleBook::new(checked(fleet, &[])?, of_classes))
}

/// `over` in place of what is in `base`.
fn merged(mut base: Table, over: Table) -> Table {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(over)) if !is_policy(&over) => section.extend(over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
    base
}

/// What has to be merged over `base` to come to `whole`.
fn difference(base: &Table, whole: Table) -> Table {
    let mut difference = Table::new();
    for (key, value) in whole {
        match (base.get(&key), value) {
            (Some(known), value) if *known == value => {}
            (Some(Value::Table(section)), Value::Table(whole)) if !is_policy(&whole) => {
                let over = whole.into_iter().filter(|(key, value)| section.get(key) != Some(value)).collect();
                difference.insert(key, Value::Table(over));
            }
            (_, value) => {
                difference.insert(key, value);
            }
        }
    }
    difference
}

fn is_policy(table: &Table) -> bool {
    table.contains_key("policy")
}

/// `at` = where in the file the rules are.
fn checked(table: Table, at: &[&str]) -> Result<Rules, Wrong> {
    let rules: Rules = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let inner = error.path().iter().map(|part| part.to_string());
        let path = at.iter().map(|part| (*part).to_owned()).chain(inner).collect();
        Wrong::Key { path, problem: error.inner().message().to_owned() }
    })?;
    match rules.check() {
        Ok(()) => Ok(rules),
        Err(bad) => Wrong::key(&[at, &bad.key.split('.').collect::<Vec<_>>()].concat(), bad.problem),
    }
}

/// The line, from 1, where the key is, or the innermost part of it that the text has.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut start = None;
    for part in path {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == part.as_str()) else { break };
        start = Some(key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    Some(text.get(..start?)?.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::card::{CheckMode, UnknownPolicy};

    #[test]
    fn the_built_in_rules_are_read_and_written_back() {
        let book = built_in_rules().unwrap();
        assert_eq!(parse_rules(&rules_text(&book).unwrap()).unwrap(), book);
        assert!(book.classes.is_empty());
    }

    #[test]
    fn a_class_differs_only_where_it_says_so() {
        let text = "version = \"v7\"\n[location]\nmax_fix_age_s = 60\n\
                    [class.van]\nfallback = { policy = \"decline\" }\n\
                    [class.van.location]\nbase_m = 500.0\nunknown = { policy = \"approve\" }\n\
                    [class.van.amount]\nmax_minor = { eur = 7 }\n[class.truck.hours]\nmode = \"off\"\n";
        let book = parse_rules(text).unwrap();
        let (fleet, van, truck) = (book.for_class(None), book.for_class(Some("van")), book.for_class(Some("truck")));
        assert_eq!((book.version.as_str(), van.version.as_str()), ("v7", "v7"));
        assert_eq!((fleet.vehicle_class.as_deref(), van.vehicle_class.as_deref()), (None, Some("van")));
        assert_eq!((fleet.location.base_m, fleet.location.max_fix_age_s), (300.0, 60));
        assert_eq!((van.location.base_m, van.location.max_fix_age_s), (500.0, 60));
        assert_eq!((van.location.unknown, van.fallback), (UnknownPolicy::Approve, UnknownPolicy::Decline));
        assert_eq!(van.amount.max_minor, BTreeMap::from([("eur".to_owned(), 7)]), "a map is taken whole");
        assert_eq!((truck.hours.mode, truck.location.base_m), (CheckMode::Off, 300.0));
        assert_eq!(book.for_class(Some("tricycle")), fleet);
        assert_eq!(parse_rules(&rules_text(&book).unwrap()).unwrap(), book);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key_and_line() {
        let cases = [
            ("version = \"x\"\n\n[location]\nbase_m = \"far\"\n", "line 4: location.base_m: "),
            ("[location]\nbase_metres = 1\n", "line 2: location.base_metres: unknown field"),
            ("[locations]\nbase_m = 1\n", "line 1: locations: unknown field"),
            ("[location]\nbase_m = -1.0\n", "line 2: location.base_m: 0 or above"),
            ("[class.van.location]\n\nbase_m = nan\n", "line 3: class.van.location.base_m: 0 or above"),
            ("[class.van.location]\nmode = \"maybe\"\n", "line 2: class.van.location.mode: "),
            ("[class.van]\nversion = \"2\"\n", "line 2: class.van.version: "),
            ("class = 3\n", "line 1: class: "),
            ("vehicle_class = \"van\"\n", "line 1: vehicle_class: "),
            ("time_zone = \"Mars/Base\"\n", "line 1: time_zone: "),
            (
                "[hours]\nwindows = [{ days = [\"monday\"], from = \"08:00\", until = \"09:00\" }]\n",
                "line 2: hours.windows",
            ),
            ("[amount]\nmax_minor = { EUR = 5 }\n", "line 2: amount.max_minor: "),
            ("[fuel_level]\nunknown = { policy = \"approve_capped\", cap_minor = 0 }\n", "line 1: fuel_level: "),
            ("version = \"\"\n", "line 1: version: "),
        ];
        for (text, expected) in cases {
            let problem = parse_rules(text).unwrap_err();
            assert!(problem.contains(expected), "{text}\n-> {problem}\nnot {expected}");
        }
        assert!(parse_rules("[location\n").unwrap_err().contains("line 1"));
        assert!(parse_rules(&"#".repeat(MAX_TEXT_LEN + 1)).is_err());
    }

    #[test]
    fn every_key_of_the_built_in_rules_has_a_sentence_above_it() {
        let switches = ["mode", "unknown", "fail"];
        let mut above = "";
        for line in BUILT_IN_RULES.lines() {
            let key = line.split([' ', '=']).next().unwrap_or("");
            if line.contains('=') && !line.starts_with('#') && !switches.contains(&key) {
                assert!(above.starts_with("# ") && above.ends_with('.'), "no sentence above `{line}`");
            }
            above = line;
        }
        let built_in: Table = BUILT_IN_RULES.parse().unwrap();
        let read = Table::try_from(&built_in_rules().unwrap().fleet).unwrap();
        assert_eq!(built_in, read, "the file lists every key");
    }
}
