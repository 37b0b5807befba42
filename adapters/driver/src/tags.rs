//! Tag names, and instance ownership by tags.

use std::collections::BTreeMap;

use longshore_secret::Secret;

use crate::instance::CreateSpec;

/// Settings common to all drivers.
#[derive(Clone, Debug)]
pub struct CloudSettings {
    /// Value of the tag `InstanceSetID` on all instances of this dispatcher.
    pub instance_set_id: String,
    /// Prefix of tag names.
    pub tag_key_prefix: String,
    /// Additional tags for every created resource, with complete names.
    pub resource_tags: BTreeMap<String, String>,
}

/// Names of the dispatcher's tags, without the prefix.
pub mod tag {
    /// Instance set of the instance.
    pub const SET: &str = "InstanceSetID";
    /// Configured name of the instance type.
    pub const TYPE: &str = "InstanceType";
    /// Idle behavior: [`IdleBehavior::name`](longshore_core::input::IdleBehavior::name).
    pub const IDLE_BEHAVIOR: &str = "IdleBehavior";
    /// Secret for the verification of the instance's identity.
    pub const SECRET: &str = "InstanceSecret";
    /// `IntentId` of the create request.
    pub const INTENT: &str = "InstanceIntent";
    /// Boot image of the instance.
    pub const IMAGE: &str = "InstanceImage";
}

/// The dispatcher's tags of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnTags {
    /// Tags with the prefix, by name without the prefix; without the secret.
    pub tags: BTreeMap<String, String>,
    /// Secret; empty if the tag is absent.
    pub secret: Secret,
}

impl CloudSettings {
    /// Complete name of a tag, with the prefix.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.tag_key_prefix)
    }

    /// Adds the prefix to the names of the tags.
    #[must_use]
    pub fn prefixed(&self, tags: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let prefixed = |(name, value): (String, String)| (self.key(&name), value);
        tags.into_iter().map(prefixed).collect()
    }

    /// All tags of a new instance except the secret, by complete name: resource tags of the
    /// configuration, overridden by the dispatcher's tags.
    #[must_use]
    pub fn tags_for(&self, spec: &CreateSpec) -> BTreeMap<String, String> {
        let mut own = spec.tags.clone();
        own.insert(tag::SET.to_owned(), self.instance_set_id.clone());
        own.insert(tag::INTENT.to_owned(), spec.intent.to_string());
        let mut tags = self.resource_tags.clone();
        tags.extend(self.prefixed(own));
        tags
    }

    /// True if an instance with these tags (complete names) belongs to the instance set of this
    /// dispatcher.
    #[must_use]
    pub fn is_own(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key(tag::SET)) == Some(&self.instance_set_id)
    }

    /// Extracts the tags with the dispatcher's prefix from the tags of an instance (complete
    /// names), for any instance set.
    #[must_use]
    pub fn own_tags(&self, tags: impl IntoIterator<Item = (String, String)>) -> OwnTags {
        let mut own = OwnTags::default();
        for (key, value) in tags {
            match key.strip_prefix(self.tag_key_prefix.as_str()) {
                Some(tag::SECRET) => own.secret = Secret::new(value),
                Some(name) => {
                    own.tags.insert(name.to_owned(), value);
                }
                None => {}
            }
        }
        own
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
    fn instance_ownership_requires_prefixed_tag() {
        let tags = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(settings().is_own(&tags("ArvadosInstanceSetID", "set-a")));
        assert!(!settings().is_own(&tags("InstanceSetID", "set-a")));
        assert!(!settings().is_own(&tags("ArvadosInstanceSetID", "set-b")));
        assert!(!settings().is_own(&BTreeMap::new()));
    }

    #[test]
    fn own_tags_secret_is_separate() {
        let cloud_tags = [
            ("ArvadosInstanceSecret", "abc"),
            ("ArvadosInstanceType", "small"),
            ("Owner", "somebody"),
        ];
        let cloud_tags = cloud_tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let own = settings().own_tags(cloud_tags);
        assert_eq!(own.secret, Secret::new("abc"));
        let expected = BTreeMap::from([("InstanceType".to_owned(), "small".to_owned())]);
        assert_eq!(own.tags, expected);
    }
}
