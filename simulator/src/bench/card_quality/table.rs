//! The report for people.

use super::kinds::{KINDS, Phase};
use super::tally::{Line, Report};

/// So many offending stories are shown in full; all are in the JSON.
const SHOWN: usize = 40;

pub fn print(report: &Report) {
    println!("{} purchase stories, seed {}", report.stories, report.seed);
    let (honest, frauds): (Vec<&Line>, Vec<&Line>) = report.lines.iter().partition(|line| line.seen.is_none());
    println!("\nHonest stories");
    let head = ["", "n", "approved", "capped", "stepped up", "declined", "doubted after"];
    let rows = honest.iter().map(|line| {
        let counts = [line.stories, line.approved, line.capped, line.stepped_up, line.declined, line.doubted];
        row(line.name, &counts.map(|count| count.to_string()))
    });
    align(head, rows.collect());
    println!("\nMisuse");
    let head =
        ["", "n", "declined", "stepped up", "capped", "approved", "doubted after", "missed", "recall", "precision"];
    let rows = frauds.iter().map(|line| {
        let counts =
            [line.stories, line.declined, line.stepped_up, line.capped, line.approved, line.doubted, line.missed];
        let shares = [line.recall, line.precision].map(percent);
        let cells: Vec<String> = counts.iter().map(ToString::to_string).chain(shares).collect();
        row(line.name, &cells)
    });
    align(head, rows.collect());
    print_phases();
    print_wrong(report);
    print_sums(report);
}

/// Which kinds can be seen when, and why not earlier.
pub fn print_phases() {
    println!("\nWhat can be seen when");
    let rows = KINDS.iter().filter_map(|about| {
        let misuse = about.misuse?;
        let [at_pump, later] = match misuse.seen {
            Phase::Authorisation => ["seen", ""],
            Phase::Reconciliation => ["cannot", "seen"],
            Phase::Neither => ["cannot", "cannot"],
        };
        Some(row(about.name, &[at_pump, later, misuse.why].map(str::to_owned)))
    });
    align(["", "authorisation", "reconciliation", "why not"], rows.collect());
}

fn print_wrong(report: &Report) {
    if report.wrong.is_empty() {
        return;
    }
    println!("\nOther than the table says (number and seed tell the story again)");
    for outcome in report.wrong.iter().take(SHOWN) {
        let what = match (outcome.was_declined, outcome.was_stepped_up, outcome.was_doubted) {
            (true, _, _) => "declined",
            (_, true, _) => "stepped up",
            (_, _, true) => "doubted",
            _ => "missed",
        };
        let told: Vec<&str> = outcome.told_by.iter().map(String::as_str).collect();
        println!(
            "  {:>4} {}: {what} [{}] {}; compared: {}",
            outcome.number,
            outcome.kind.about().name,
            told.join(", "),
            outcome.why.join("; "),
            outcome.reconciled.join(", "),
        );
    }
    if report.wrong.len() > SHOWN {
        println!("  … and {} more", report.wrong.len() - SHOWN);
    }
}

fn print_sums(report: &Report) {
    let Report { honest, frauds, .. } = report;
    println!(
        "\nHonest: {} of {honest} declined ({}), {} stepped up, {} capped, {} doubted after, {} doubts taken back",
        report.honest_declines,
        percent(Some(report.false_decline_rate)),
        report.honest_stepped_up,
        report.honest_capped,
        report.honest_doubts,
        report.honest_withdrawn,
    );
    println!(
        "Misuse: {} of {frauds} stopped at authorisation, {} more doubted after; recall {}, of what can be seen {}; precision {}",
        report.frauds_stopped,
        report.frauds_doubted,
        percent(Some(report.recall)),
        percent(Some(report.recall_of_visible)),
        percent(Some(report.precision)),
    );
    if report.unjudged > 0 {
        println!("{} stories are left out: the gateway had no time to judge and fell back", report.unjudged);
    }
    if report.pending > 0 {
        println!("{} purchases were still waiting for a report of their car when the run ended", report.pending);
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}

fn row(name: &str, cells: &[String]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells.iter().cloned()).collect()
}

fn align<const COLUMNS: usize>(head: [&str; COLUMNS], rows: Vec<Vec<String>>) {
    let lines: Vec<Vec<String>> = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS).map(|column| width(column).unwrap_or(0)).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ if column + 1 == COLUMNS => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
