//! Reads one counter from a Prometheus text page.

use crate::failure::Failure;

#[derive(Debug, Clone)]
pub struct Counter {
    client: reqwest::Client,
    url: String,
    name: String,
}

impl Counter {
    /// `base` like `http://127.0.0.1:9464`.
    pub fn new(base: &str, name: &str) -> Result<Self, Failure> {
        // This page is plain HTTP; the empty trust list only keeps the client from looking for the system's.
        let client = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .build()
            .map_err(|error| Failure::failed(format!("metrics: {error}")))?;
        let base = base.trim_end_matches('/');
        let url = if base.ends_with("/metrics") { base.to_owned() } else { format!("{base}/metrics") };
        Ok(Self { client, url, name: name.to_owned() })
    }

    pub async fn read(&self) -> Result<u64, Failure> {
        let failed = |error: reqwest::Error| Failure::failed(format!("{}: {error}", self.url));
        let page = self.client.get(&self.url).send().await.map_err(failed)?.text().await.map_err(failed)?;
        sum(&page, &self.name)
            .ok_or_else(|| Failure::failed(format!("{}: no metric named {}", self.url, self.name)))
            .map(|value| value as u64)
    }
}

/// The sum over all label sets of a metric; `None` when the page does not have it.
fn sum(page: &str, name: &str) -> Option<f64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b'{' => rest.get(rest.rfind('}')? + 1..)?,
            b' ' => rest,
            _ => return None,
        };
        value.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_mistaken_for_a_longer_one() {
        let page = "# TYPE a counter\na_total{shard=\"0\"} 3\na_total{shard=\"}1\"} 4 1700000000\na_total_more 100\n";
        assert_eq!(sum(page, "a_total"), Some(7.0));
        assert_eq!(sum(page, "a_total_more"), Some(100.0));
        assert_eq!(sum(page, "a"), None);
    }
}
