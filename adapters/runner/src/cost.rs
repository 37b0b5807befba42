//! Cost of a container: the price of the instance over time.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use crate::time_format;

/// Maximum size of a price history.
const PRICES_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Price {
    #[serde(rename = "StartTime")]
    start_time: String,
    #[serde(rename = "Price")]
    price: f64,
}

/// Parses prices in dollars per hour with their start times, ordered by time.
fn parse(bytes: &[u8]) -> Result<Vec<(f64, f64)>, String> {
    let prices: Vec<Price> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let read = |price: &Price| match time_format::rfc3339(&price.start_time) {
        Some(start) if price.price >= 0.0 => Ok((start, price.price)),
        Some(_) => Err(format!("Price {} is negative", price.price)),
        None => Err(format!("StartTime {:?} is not RFC 3339", price.start_time)),
    };
    let mut prices = prices.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    prices.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(prices)
}

/// Stores a price history sent by the dispatcher. Empty input means no change.
pub(crate) fn update(path: &Path, from: impl Read) -> Result<(), String> {
    let mut bytes = Vec::new();
    from.take(PRICES_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("read prices: {e}"))?;
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    parse(&bytes).map_err(|why| {
        format!("prices on stdin: {why}; expected [{{\"StartTime\": ..., \"Price\": ...}}]")
    })?;
    write(path, &bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// Replaces the file atomically, so that a runner never reads a partial file.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!("~{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o777)
        .open(&temporary);
    let written = file.and_then(|mut file| io::Write::write_all(&mut file, bytes));
    let done = written.and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// Cost meter of one container.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    /// Price in dollars per hour before the first entry of the history.
    pub(crate) price: f64,
    /// Start of the container, in seconds since the Unix epoch.
    pub(crate) started: f64,
    pub(crate) history: PathBuf,
}

impl Meter {
    /// Returns the cost in dollars from the start until `now`, in seconds since the Unix epoch.
    /// Reads the history again on each call.
    pub(crate) fn cost(&self, now: f64) -> f64 {
        let file = fs::File::open(&self.history).ok();
        let bytes = file.and_then(|file| {
            let mut bytes = Vec::new();
            file.take(PRICES_BYTES_MAX)
                .read_to_end(&mut bytes)
                .ok()
                .map(|_| bytes)
        });
        let prices = bytes
            .and_then(|bytes| parse(&bytes).ok())
            .unwrap_or_default();
        self.integrate(&prices, now)
    }

    fn integrate(&self, prices: &[(f64, f64)], now: f64) -> f64 {
        let (mut at, mut price, mut dollar_seconds) = (self.started, self.price, 0.0);
        for &(from, next) in prices.iter().filter(|(from, _)| *from < now) {
            dollar_seconds += price * (from - at).max(0.0);
            at = at.max(from);
            price = next;
        }
        (dollar_seconds + price * (now - at).max(0.0)) / 3600.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter {
            price: 1.0,
            started: 3600.0,
            history: "/nonexistent".into(),
        }
    }

    #[test]
    fn cost_without_history_uses_configured_price() {
        assert!((meter().cost(3600.0 * 3.0) - 2.0).abs() < 1e-9);
        assert!(meter().cost(0.0).abs() < 1e-9);
    }

    #[test]
    fn cost_integrates_price_history() {
        let prices = [(0.0, 2.0), (7200.0, 4.0), (99_999.0, 100.0)];
        assert!((meter().integrate(&prices, 3600.0 * 3.0) - 6.0).abs() < 1e-9);
    }

    #[test]
    fn history_is_replaced_by_valid_input_only() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = dir.path().join("prices.json");
        let good = r#"[{"StartTime":"2026-01-01T00:00:00Z","Price":0.5}]"#;
        update(&path, good.as_bytes())?;
        update(&path, b"".as_slice())?;
        assert!(update(&path, b"[{]".as_slice()).is_err());
        assert!(
            update(&path, br#"[{"StartTime":"soon","Price":1}]"#.as_slice())
                .is_err_and(|e| e.contains("RFC 3339"))
        );
        assert_eq!(fs::read_to_string(&path).map_err(|e| e.to_string())?, good);
        assert_eq!(
            fs::read_dir(dir.path()).map_err(|e| e.to_string())?.count(),
            1
        );
        Ok(())
    }
}
