//! Whose an instance is, and our tags among those of others.

use std::collections::BTreeMap;

use longshore_secret::Secret;

use crate::instance::CreateSpec;

/// Settings that every driver gets.
#[derive(Clone, Debug)]
pub struct CloudSettings {
    /// Value of the tag `InstanceSetID`: what belongs to this dispatcher.
    pub instance_set_id: String,
    /// Put before each tag's name.
    pub tag_key_prefix: String,
    /// Further tags for everything that is created, names as they are.
    pub resource_tags: BTreeMap<String, String>,
}

/// Names of our tags, to be put behind the prefix.
pub mod tag {
    /// Whose instance it is.
    pub const SET: &str = "InstanceSetID";
    /// The configured name of its type.
    pub const TYPE: &str = "InstanceType";
    /// `run`, `hold` or `drain`.
    pub const IDLE_BEHAVIOR: &str = "IdleBehavior";
    /// What it must show to prove its identity.
    pub const SECRET: &str = "InstanceSecret";
    /// The core's wish that it was created for.
    pub const INTENT: &str = "InstanceIntent";
    /// The image it was booted from.
    pub const IMAGE: &str = "InstanceImage";
}

/// Our tags of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTags {
    /// Those behind the prefix, names without it, the secret excepted.
    pub tags: BTreeMap<String, String>,
    /// The secret; empty where there is none.
    pub secret: Secret,
}

impl CloudSettings {
    /// A tag's name as the cloud has it.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.tag_key_prefix)
    }

    /// Names as the cloud has them.
    #[must_use]
    pub fn prefixed(&self, tags: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let prefixed = |(name, value): (String, String)| (self.key(&name), value);
        tags.into_iter().map(prefixed).collect()
    }

    /// Every tag of a new instance but its secret, names as the cloud has them: the operator's and
    /// ours, which win.
    #[must_use]
    pub fn tags_for(&self, spec: &CreateSpec) -> BTreeMap<String, String> {
        let mut ours = spec.tags.clone();
        ours.insert(tag::SET.to_owned(), self.instance_set_id.clone());
        ours.insert(tag::INTENT.to_owned(), spec.intent.to_string());
        let mut tags = self.resource_tags.clone();
        tags.extend(self.prefixed(ours));
        tags
    }

    /// Whether an instance with these tags, names as the cloud has them, is of our set.
    #[must_use]
    pub fn is_own(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key(tag::SET)) == Some(&self.instance_set_id)
    }

    /// What the tags of an instance, names as the cloud has them, say to us, whosever it is.
    #[must_use]
    pub fn ours(&self, tags: impl IntoIterator<Item = (String, String)>) -> OwnTags {
        let mut ours = OwnTags::default();
        for (key, value) in tags {
            match key.strip_prefix(self.tag_key_prefix.as_str()) {
                Some(tag::SECRET) => ours.secret = Secret::new(value),
                Some(name) => {
                    ours.tags.insert(name.to_owned(), value);
                }
                None => {}
            }
        }
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> CloudSettings {
        CloudSettings {
            instance_set_id: "set-a".to_owned(),
            tag_key_prefix: "Arvados".to_owned(),
            resource_tags: BTreeMap::new(),
        }
    }

    #[test]
    fn only_a_prefixed_tag_makes_an_instance_ours() {
        let tags = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(settings().is_own(&tags("ArvadosInstanceSetID", "set-a")));
        assert!(!settings().is_own(&tags("InstanceSetID", "set-a")));
        assert!(!settings().is_own(&tags("ArvadosInstanceSetID", "set-b")));
        assert!(!settings().is_own(&BTreeMap::new()));
    }

    #[test]
    fn the_secret_is_kept_apart_from_what_is_shown() {
        let cloud_tags = [
            ("ArvadosInstanceSecret", "abc"),
            ("ArvadosInstanceType", "small"),
            ("Owner", "somebody"),
        ];
        let cloud_tags = cloud_tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let ours = settings().ours(cloud_tags);
        assert_eq!(ours.secret, Secret::new("abc"));
        let shown = BTreeMap::from([("InstanceType".to_owned(), "small".to_owned())]);
        assert_eq!(ours.tags, shown);
    }
}
