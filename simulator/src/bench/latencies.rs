//! Every latency of a run, kept exactly; a run is short enough for that.

use serde_json::{Value, json};

#[derive(Debug, Clone, Default)]
pub struct Latencies {
    ns: Vec<u64>,
}

impl Latencies {
    pub fn add_ns(&mut self, ns: u64) {
        self.ns.push(ns);
    }

    pub fn merge(&mut self, other: Self) {
        self.ns.extend(other.ns);
    }

    pub fn len(&self) -> usize {
        self.ns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ns.is_empty()
    }

    /// Quantiles in microseconds; `null` when there is nothing to say.
    pub fn into_json(mut self) -> Value {
        if self.ns.is_empty() {
            return Value::Null;
        }
        self.ns.sort_unstable();
        let us = |quantile: f64| quantile_ns(&self.ns, quantile) as f64 / 1000.0;
        let mean_us = self.ns.iter().map(|ns| *ns as f64).sum::<f64>() / self.ns.len() as f64 / 1000.0;
        json!({
            "count": self.ns.len(),
            "mean_us": (mean_us * 10.0).round() / 10.0,
            "min_us": us(0.0),
            "p50_us": us(0.5),
            "p90_us": us(0.9),
            "p99_us": us(0.99),
            "p999_us": us(0.999),
            "max_us": us(1.0),
        })
    }
}

/// The smallest value that at least this share of the sorted values does not exceed.
fn quantile_ns(sorted: &[u64], quantile: f64) -> u64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

impl FromIterator<u64> for Latencies {
    fn from_iter<I: IntoIterator<Item = u64>>(ns: I) -> Self {
        Self { ns: ns.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact() {
        let quantiles = (1..=1000).rev().map(|us| us * 1000).collect::<Latencies>().into_json();
        for (name, us) in
            [("min_us", 1.0), ("p50_us", 500.0), ("p99_us", 990.0), ("p999_us", 999.0), ("max_us", 1000.0)]
        {
            assert_eq!(quantiles[name], json!(us), "{name}");
        }
        assert_eq!(Latencies::default().into_json(), Value::Null);
    }
}
