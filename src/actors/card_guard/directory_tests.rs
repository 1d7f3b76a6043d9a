//! Each rule of the look-up, and the indexes against a plain search.

use proptest::prelude::*;

use super::*;

const TORINO: Position = Position { latitude: 45.07, longitude: 7.68 };

fn north(metres: f64) -> Position {
    Position { latitude: TORINO.latitude + metres / 111_195.0, ..TORINO }
}

fn station(id: &str, position: Option<Position>, terminals: &[(&str, Option<&str>)]) -> Station {
    let terminal = |(network, terminal): &(&str, Option<&str>)| Terminal {
        network_id: (*network).into(),
        terminal_id: terminal.map(Into::into),
    };
    let terminals = terminals.iter().map(terminal).collect();
    Station { position, terminals, ..Station::new(id.parse().unwrap(), id.into()) }
}

fn named(id: &str, name: &str, postal_code: &str, country: Option<&str>) -> Station {
    Station {
        postal_code: Some(postal_code.into()),
        country: country.map(Into::into),
        ..Station::new(id.parse().unwrap(), name.into())
    }
}

fn directory(stations: impl IntoIterator<Item = Station>) -> Directory {
    let mut directory = Directory::default();
    stations.into_iter().for_each(|station| directory.put(station));
    directory
}

fn ids(network: &str, terminal: Option<&str>) -> Merchant {
    Merchant { network_id: Some(network.into()), terminal_id: terminal.map(Into::into), ..Merchant::default() }
}

fn name_and_code(name: &str, code: &str) -> Merchant {
    Merchant { name: Some(name.into()), postal_code: Some(code.into()), ..Merchant::default() }
}

fn at(position: Position) -> Merchant {
    Merchant { position: Some(position), ..Merchant::default() }
}

/// In short: `id by how`.
fn found(directory: &Directory, merchant: &Merchant) -> String {
    match directory.look_up(merchant) {
        StationLookup::Unknown => "unknown".into(),
        StationLookup::Ambiguous { stations } => format!("one of {stations}"),
        StationLookup::Known { station_id, by, .. } => format!("{station_id} by {by:?}"),
    }
}

#[test]
fn a_station_is_found_by_terminal_first_and_by_network_id_if_that_is_unique() {
    let mut directory = directory([
        station("a", None, &[("N", Some("1"))]),
        station("b", None, &[("N", Some("2"))]),
        station("c", None, &[("M", None)]),
    ]);
    assert_eq!(found(&directory, &ids("N", Some("2"))), "b by Terminal");
    assert_eq!(found(&directory, &ids("N", Some("9"))), "one of 2");
    assert_eq!(found(&directory, &ids("N", None)), "one of 2");
    assert_eq!(found(&directory, &ids("M", Some("7"))), "c by Network");
    assert_eq!(found(&directory, &ids("X", None)), "unknown");
    directory.remove(&"a".parse().unwrap());
    assert_eq!(found(&directory, &ids("N", None)), "b by Network");
}

#[test]
fn a_name_with_its_postal_code_finds_the_only_station_that_has_both() {
    let directory = directory([
        named("a", "Eni Station S.p.A.", "10121", Some("IT")),
        named("b", "Eni Station", "10122", Some("IT")),
        named("c", "Q8", "10121", Some("IT")),
        named("d", "Q8", "10121", Some("IT")),
        Station { brand: Some("ＥＮＥＯＳ".into()), ..named("e", "渋谷店", "150-0002", Some("JP")) },
    ]);
    assert_eq!(found(&directory, &name_and_code("ENI STATION SPA", "I-10121")), "a by Name");
    assert_eq!(found(&directory, &name_and_code("eneos", "〒1500002")), "e by Name");
    assert_eq!(found(&directory, &name_and_code("Q8", "10121")), "one of 2");
    assert_eq!(found(&directory, &name_and_code("Eni", "10121")), "unknown");
    assert_eq!(found(&directory, &Merchant { name: Some("Eni Station".into()), ..Merchant::default() }), "unknown");
    let elsewhere = Merchant { country: Some("DE".into()), ..name_and_code("Eni Station", "10121") };
    assert_eq!(found(&directory, &elsewhere), "unknown");
    // Three letters and two cannot be compared.
    let here = Merchant { country: Some("ITA".into()), ..name_and_code("Eni Station", "10121") };
    assert_eq!(found(&directory, &here), "a by Name");
}

#[test]
fn a_name_tells_which_of_several_with_one_network_id() {
    let chain = |station: Station| Station {
        terminals: vec![Terminal { network_id: "CHAIN".into(), terminal_id: None }],
        ..station
    };
    let directory = directory([
        chain(named("a", "Eni", "10121", None)),
        chain(named("b", "Eni", "10122", None)),
        named("z", "Eni", "10129", None),
    ]);
    let asked = |code: &str| Merchant { network_id: Some("CHAIN".into()), ..name_and_code("eni", code) };
    assert_eq!(found(&directory, &asked("10122")), "b by Name");
    // It is not of this chain.
    assert_eq!(found(&directory, &asked("10129")), "one of 2");
}

#[test]
fn the_networks_own_position_finds_the_nearest_station_or_names_the_place() {
    let directory = directory([
        station("near", Some(north(90.0)), &[]),
        station("nearer", Some(north(-60.0)), &[]),
        station("far", Some(north(9_000.0)), &[]),
    ]);
    assert_eq!(found(&directory, &at(TORINO)), "nearer by Position");
    let StationLookup::Known { station_id, position, at_position, .. } = directory.look_up(&at(north(4_000.0))) else {
        panic!("no place")
    };
    assert_eq!((position, at_position), (Some(north(4_000.0)), 1));
    assert!(station_id.as_str().starts_with("at:45.1059"), "{station_id}");
    for nowhere in [(0.0, 0.0), (91.0, 7.0), (f64::NAN, 7.0)] {
        let (latitude, longitude) = nowhere;
        assert_eq!(found(&directory, &at(Position { latitude, longitude })), "unknown");
    }
}

#[test]
fn a_position_tells_which_of_several_with_one_network_id_and_no_other_station() {
    let directory = directory([
        station("a", Some(north(0.0)), &[("N", None)]),
        station("b", Some(north(5_000.0)), &[("N", None)]),
        station("other", Some(north(2_000.0)), &[]),
    ]);
    assert_eq!(found(&directory, &Merchant { position: Some(north(4_950.0)), ..ids("N", None) }), "b by Position");
    assert_eq!(found(&directory, &Merchant { position: Some(north(2_000.0)), ..ids("N", None) }), "one of 2");
}

#[test]
fn a_placeholder_is_no_neighbour_and_gives_way_to_the_networks_position() {
    let directory = directory([station("a", Some(TORINO), &[("A", None)]), station("b", Some(TORINO), &[("B", None)])]);
    assert!(found(&directory, &at(TORINO)).starts_with("at:"));
    let StationLookup::Known { at_position: 2, position, .. } = directory.look_up(&ids("A", None)) else { panic!() };
    assert_eq!(position, Some(TORINO));
    let asked = Merchant { position: Some(north(700.0)), ..ids("A", None) };
    let StationLookup::Known { at_position: 1, position, .. } = directory.look_up(&asked) else { panic!() };
    assert_eq!(position, Some(north(700.0)));
}

#[test]
fn a_shared_position_is_counted_and_uncounted() {
    let mut directory = directory([station("a", Some(TORINO), &[]), station("b", Some(TORINO), &[])]);
    assert_eq!(directory.at_position(TORINO), 2);
    directory.put(station("b", Some(north(5.0)), &[]));
    assert_eq!((directory.at_position(TORINO), directory.at_position(north(5.0))), (1, 1));
}

#[test]
fn coordinates_are_shared_within_a_file_and_with_others_of_the_directory_but_not_with_themselves() {
    let directory = directory([station("a", Some(north(0.0)), &[]), station("b", Some(north(100.0)), &[])]);
    let file = [
        station("a", Some(north(0.0)), &[]),
        station("c", Some(north(100.0)), &[]),
        station("d", Some(north(200.0)), &[]),
        station("e", Some(north(200.0)), &[]),
        station("f", None, &[]),
    ];
    assert_eq!(directory.shared_places(&file), HashSet::from([place(north(100.0)), place(north(200.0))]));
}

#[test]
fn only_a_station_without_a_place_of_its_own_or_a_new_terminal_is_taught() {
    let manual = |mut station: Station, position| {
        station.place_by_hand(Some(position));
        station
    };
    let directory = directory([
        station("placed", Some(north(0.0)), &[("PLACED", None)]),
        station("placeless", None, &[("PLACELESS", None)]),
        station("p1", Some(north(9.0)), &[("P1", None)]),
        manual(station("p2", None, &[("P2", None)]), north(9.0)),
        station("c1", None, &[("CHAIN", Some("1"))]),
        station("c2", None, &[("CHAIN", Some("2"))]),
    ]);
    let taught = |network: &str, terminal| match directory.pupil(&ids(network, terminal)) {
        Pupil::Station(station) => station.station_id.to_string(),
        Pupil::Terminal => "new".into(),
        Pupil::Nobody => "nobody".into(),
    };
    assert_eq!(taught("PLACED", None), "nobody");
    assert_eq!(taught("PLACELESS", Some("1")), "placeless");
    assert_eq!((taught("P1", None), taught("P2", None)), ("p1".into(), "nobody".into()));
    assert_eq!((taught("CHAIN", Some("1")), taught("CHAIN", Some("3"))), ("c1".into(), "new".into()));
    assert_eq!((taught("CHAIN", None), taught("NEW", None)), ("nobody".into(), "new".into()));
    assert_eq!(directory.pupil(&Merchant::default()), Pupil::Nobody);
}

#[test]
fn the_longest_unheard_of_sightings_are_forgotten_first() {
    let seen = |id: usize, at: i64| Sightings {
        seen: vec![crate::domain::card::Sighting {
            decision_id: crate::domain::DecisionId(uuid::Uuid::from_u128(id as u128)),
            vehicle_id: "V".parse().unwrap(),
            position: TORINO,
            at: Timestamp(at),
        }],
        ..Sightings::new(format!("s{id}").parse().unwrap(), None)
    };
    let mut directory = Directory::default();
    for id in 0..MAX_SIGHTED {
        assert_eq!(directory.sightings_to_forget(&format!("s{id}").parse().unwrap()), None);
        directory.put_sightings(seen(id, id as i64));
    }
    directory.put_sightings(seen(0, i64::MAX));
    assert_eq!(directory.sightings_to_forget(&"s5".parse().unwrap()), None);
    assert_eq!(directory.sightings_to_forget(&"new".parse().unwrap()).unwrap().as_str(), "s1");
    directory.remove_sightings(&"s1".parse().unwrap());
    assert_eq!(directory.sightings_to_forget(&"new".parse().unwrap()), None);
    assert_eq!(directory.sighted.len(), directory.sightings.len());
}

#[derive(Debug, Clone)]
enum Step {
    Put(Box<Station>),
    Import(Vec<Station>),
    Remove(u8),
}

/// Few ids, names and places, so that they meet.
fn a_station() -> impl Strategy<Value = Station> {
    let terminal = (0u8..3, proptest::option::of(0u8..3)).prop_map(|(network, terminal)| Terminal {
        network_id: format!("N{network}"),
        terminal_id: terminal.map(|terminal| format!("T{terminal}")),
    });
    (
        0u8..12,
        proptest::option::of((0u8..4, 0u8..3)),
        proptest::collection::vec(terminal, 0..3),
        proptest::sample::select(vec!["Eni", "ENI SPA", "Q8", "渋谷"]),
        proptest::option::of(proptest::sample::select(vec!["10121", "I-10121", "10122"])),
        proptest::option::of(proptest::sample::select(vec!["IT", "DE"])),
    )
        .prop_map(|(id, at, terminals, name, code, country)| Station {
            position: at.map(|(lat, lon)| Position {
                latitude: 45.0 + f64::from(lat) * 0.001,
                // Across the date line.
                longitude: [179.9995, -179.9995, 7.0][usize::from(lon)],
            }),
            terminals,
            postal_code: code.map(Into::into),
            country: country.map(Into::into),
            ..Station::new(format!("s{id}").parse().unwrap(), name.into())
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => a_station().prop_map(|station| Step::Put(Box::new(station))),
        1 => proptest::collection::vec(a_station(), 0..12).prop_map(Step::Import),
        2 => (0u8..12).prop_map(Step::Remove),
    ];
    proptest::collection::vec(step, 0..60)
}

/// By looking at every station.
fn searched(stations: &BTreeMap<StationId, Station>, keep: impl Fn(&Station) -> bool) -> Vec<String> {
    stations.values().filter(|station| keep(station)).map(|station| station.station_id.to_string()).collect()
}

proptest! {
    #[test]
    fn the_indexes_say_what_a_plain_search_says(steps in steps(), latitude in 44.99f64..45.01) {
        let (mut directory, mut plain) = (Directory::default(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Put(station) => {
                    directory.put(Station::clone(&station));
                    plain.insert(station.station_id.clone(), *station);
                }
                Step::Import(stations) => {
                    for station in stations {
                        directory.put_unplaced(station.clone());
                        plain.insert(station.station_id.clone(), station);
                    }
                    directory.place_all(RTree::bulk_load(directory.spots()));
                }
                Step::Remove(id) => {
                    let id: StationId = format!("s{id}").parse().unwrap();
                    directory.remove(&id);
                    plain.remove(&id);
                }
            }
        }
        let texts = |ids: &[StationId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (network, terminal) in (0..3).flat_map(|n| [None, Some(0), Some(1), Some(2)].map(|t| (n, t))) {
            let (network, terminal) = (format!("N{network}"), terminal.map(|terminal: u8| format!("T{terminal}")));
            let (by, ids) = directory.ids_named(&ids(&network, terminal.as_deref()));
            let of_network = |station: &Station| station.terminals.iter().any(|t| t.network_id == network);
            let of_both = |station: &Station| {
                station.terminals.iter().any(|t| t.network_id == network && t.terminal_id == terminal)
            };
            let exact = if terminal.is_some() { searched(&plain, of_both) } else { Vec::new() };
            if exact.is_empty() {
                prop_assert_eq!((by, texts(ids)), (LookedUpBy::Network, searched(&plain, of_network)));
            } else {
                prop_assert_eq!((by, texts(ids)), (LookedUpBy::Terminal, exact));
            }
        }
        for code in ["10121", "10122"] {
            let merchant = Merchant { country: Some("IT".into()), ..name_and_code("eni", code) };
            let found: Vec<StationId> = directory.ids_by_name(&merchant).cloned().collect();
            let expected = searched(&plain, |station| {
                station.name.starts_with(['E']) && station.country.as_deref() != Some("DE")
                    && station.postal_code.as_deref().is_some_and(|known| known.ends_with(code))
            });
            prop_assert_eq!(texts(&found), expected);
        }
        let here = Position { latitude, longitude: 180.0 };
        let near = directory.near(here, 300.0, usize::MAX);
        let distance = |station: &Station| station.position.map(|position| position.distance_m(here));
        let mut expected = searched(&plain, |station| distance(station).is_some_and(|metres| metres <= 300.0));
        prop_assert!(near.is_sorted_by(|one, other| one.1 <= other.1 + 1e-6));
        prop_assert!(near.iter().all(|(station, metres)| (distance(station).unwrap() - metres).abs() < 0.01));
        let mut found: Vec<String> = near.iter().map(|(station, _)| station.station_id.to_string()).collect();
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
        for station in plain.values().filter_map(|station| station.position) {
            let expected = searched(&plain, |other| other.position.map(place) == Some(place(station))).len();
            prop_assert_eq!(directory.at_position(station) as usize, expected);
        }
        let positioned = plain.values().filter(|station| station.position.is_some()).count();
        prop_assert_eq!((directory.len(), directory.spots.size()), (plain.len(), positioned));
        for id in plain.keys() {
            directory.remove(id);
        }
        let empty = directory.by_terminal.is_empty() && directory.by_name.is_empty() && directory.by_place.is_empty();
        prop_assert!(empty && directory.spots.size() == 0 && directory.len() == 0);
    }
}
