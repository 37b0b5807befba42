//! Configuration of a test cluster.

use std::path::Path;

/// Configuration of a test cluster, based on `cluster.yml`.
#[derive(Clone, Debug)]
pub struct Setup {
    text: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            text: include_str!("cluster.yml").to_owned(),
        }
    }
}

impl Setup {
    /// Changes the value of a key of `cluster.yml`.
    ///
    /// # Panics
    ///
    /// Unless the key occurs exactly once.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("{key}:");
        let is_it = |line: &&str| line.trim_start().starts_with(&name);
        let lines = self.text.lines();
        assert_eq!(lines.filter(is_it).count(), 1, "{key} in cluster.yml");
        let replaced = self.text.lines().map(|line| {
            let indent = line.len() - line.trim_start().len();
            match is_it(&line) {
                true => format!("{:indent$}{name} {value}\n", ""),
                false => format!("{line}\n"),
            }
        });
        self.text = replaced.collect();
        self
    }

    /// Replaces any text.
    ///
    /// # Panics
    ///
    /// If the text does not occur.
    #[must_use]
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(self.text.contains(from), "{from} in cluster.yml");
        self.text = self.text.replace(from, to);
        self
    }

    /// Content of the configuration file for a directory, two ports and two tokens.
    #[must_use]
    pub fn fill(&self, dir: &Path, ports: [u16; 2], tokens: [&str; 2]) -> String {
        self.text
            .replace("{dir}", &dir.display().to_string())
            .replace("{queue_port}", &ports[0].to_string())
            .replace("{management_port}", &ports[1].to_string())
            .replace("{root_token}", tokens[0])
            .replace("{management_token}", tokens[1])
    }
}
