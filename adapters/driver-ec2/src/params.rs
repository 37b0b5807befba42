//! Parameters in `DriverParameters`.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::resources::MicroDollars;
use longshore_driver::params::{ParamError, duration};
use longshore_secret::Secret;
use serde_json::{Map, Value};

const KEYS: &str = "one of AccessKeyID, SecretAccessKey, Region, SecurityGroupIDs, SubnetID, \
                    AdminUsername, EBSVolumeType, EBSPrice, IAMInstanceProfile, \
                    SpotPriceUpdateInterval, InstanceTypeQuotaGroups, AssociatePublicIP, Endpoint";

/// Keys of other drivers of arvados-dispatch-cloud, which may be present in the same configuration.
const OTHER_DRIVER_KEYS: [&str; 16] = [
    "SubscriptionID",
    "ClientID",
    "ClientSecret",
    "TenantID",
    "CloudEnvironment",
    "Location",
    "ResourceGroup",
    "Network",
    "NetworkResourceGroup",
    "Subnet",
    "ImageResourceGroup",
    "SharedImageGalleryName",
    "SharedImageGalleryImageVersion",
    "StorageAccount",
    "BlobContainer",
    "DeleteDanglingResourcesAfter",
];

/// Volume types without further required settings.
const VOLUME_TYPES: [&str; 5] = ["gp2", "gp3", "st1", "sc1", "standard"];

/// Parameters of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Params {
    /// Credentials for signatures; `None` for the SDK's default chain: environment, profile, web
    /// identity, role of the container or instance (`AccessKeyID`, `SecretAccessKey`).
    pub access_key: Option<AccessKey>,
    /// Region, such as `us-east-1` (`Region`).
    pub region: String,
    /// Security groups of every network interface; empty for the network's default group
    /// (`SecurityGroupIDs`).
    pub security_groups: Vec<String>,
    /// Subnets to try, in order; empty for the default subnet (`SubnetID`).
    pub subnets: Vec<String>,
    /// Login user (`AdminUsername`).
    pub admin_user: String,
    /// Volume type for `AddedScratch` (`EBSVolumeType`).
    pub volume_type: String,
    /// Price of the volume per GiB and month (`EBSPrice`).
    pub volume_price: MicroDollars,
    /// Instance profile with the role of instances; empty for none (`IAMInstanceProfile`).
    pub instance_profile: String,
    /// Interval between queries of spot prices; `None` for no queries (`SpotPriceUpdateInterval`).
    pub spot_price_interval: Option<Duration>,
    /// Quota group of each type family (`InstanceTypeQuotaGroups`).
    pub quota_groups: BTreeMap<String, String>,
    /// True to give instances a public address (`AssociatePublicIP`, new).
    pub public_address: bool,
    /// Alternative URL of the EC2 API, for tests and private endpoints (`Endpoint`, new).
    pub endpoint: Option<String>,
}

/// Long-lived access key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// Key id.
    pub id: String,
    /// Secret of the key.
    pub secret: Secret,
}

impl Default for Ec2Params {
    /// Defaults of arvados-dispatch-cloud; `Region` has no default.
    fn default() -> Self {
        Self {
            access_key: None,
            region: String::new(),
            security_groups: Vec::new(),
            subnets: Vec::new(),
            admin_user: "crunch".to_owned(),
            volume_type: "gp2".to_owned(),
            volume_price: MicroDollars(100_000),
            instance_profile: String::new(),
            spot_price_interval: Some(Duration::from_secs(24 * 3600)),
            quota_groups: default_quota_groups(),
            public_address: false,
            endpoint: None,
        }
    }
}

/// EC2's quotas for virtual CPUs; each other family has its own quota.
fn default_quota_groups() -> BTreeMap<String, String> {
    let standard = ["a", "c", "d", "h", "i", "m", "r", "t", "z"].map(|family| (family, "standard"));
    let others = [("g", "g"), ("vt", "g"), ("p5", "p5")];
    let all = standard.into_iter().chain(others);
    all.map(|(family, group)| (family.to_owned(), group.to_owned()))
        .collect()
}

impl Ec2Params {
    /// Parses `DriverParameters`.
    ///
    /// # Errors
    /// The first key with an invalid value, an unknown key, or an absent required key.
    pub fn from_json(value: &Value) -> Result<Self, ParamError> {
        let mut params = Self::default();
        let none = Map::new();
        let entries = match value {
            Value::Null => &none,
            Value::Object(entries) => entries,
            other => return Err(ParamError::new("", "an object", other)),
        };
        let (mut id, mut secret) = (String::new(), Secret::default());
        for (key, value) in entries {
            match key.as_str() {
                "AccessKeyID" => id = text(key, value)?,
                "SecretAccessKey" => secret = secret_text(key, value)?,
                _ => params.set(key, value)?,
            }
        }
        if params.region.is_empty() {
            return Err(ParamError::missing("Region", "a region such as us-east-1"));
        }
        params.access_key = access_key(id, secret)?;
        Ok(params)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), ParamError> {
        match key {
            "Region" => self.region = text(key, value)?,
            "SecurityGroupIDs" => self.security_groups = names(key, value)?,
            "SubnetID" => self.subnets = subnets(key, value)?,
            "AdminUsername" => {
                let user = text(key, value)?;
                if user.is_empty() {
                    return Err(ParamError::new(key, "a user name", value));
                }
                self.admin_user = user;
            }
            "EBSVolumeType" => {
                self.volume_type = text(key, value)?;
                if !VOLUME_TYPES.contains(&self.volume_type.as_str()) {
                    let expected = "one of gp2, gp3, st1, sc1, standard";
                    return Err(ParamError::new(key, expected, value));
                }
            }
            "EBSPrice" => self.volume_price = dollars(key, value)?,
            "IAMInstanceProfile" => self.instance_profile = text(key, value)?,
            "SpotPriceUpdateInterval" => {
                let interval = duration(key, value)?;
                self.spot_price_interval = (!interval.is_zero()).then_some(interval);
            }
            "InstanceTypeQuotaGroups" => self.quota_groups.extend(quota_groups(key, value)?),
            "AssociatePublicIP" => {
                let expected = "true or false";
                let wrong = || ParamError::new(key, expected, value);
                self.public_address = value.as_bool().ok_or_else(wrong)?;
            }
            "Endpoint" => self.endpoint = endpoint(key, value)?,
            other if OTHER_DRIVER_KEYS.contains(&other) => {}
            _ => return Err(ParamError::unknown_key(key, KEYS)),
        }
        Ok(())
    }

    /// Quota group of a type: the group configured for its family, with the longest matching name
    /// (`p5en`, `p5`, `p`), otherwise a group of its own.
    #[must_use]
    pub fn quota_group(&self, provider_type: &str) -> String {
        let family = provider_type.split('.').next().unwrap_or_default();
        let letters = leading(family, |c| c.is_ascii_lowercase());
        let generation = &family[letters.len()..];
        let numbered = letters.len() + leading(generation, |c| c.is_ascii_digit()).len();
        let names = [family, &family[..numbered], letters];
        let configured = names.iter().find_map(|name| self.quota_groups.get(*name));
        configured.map_or(letters, String::as_str).to_owned()
    }
}

fn leading(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    &text[..end]
}

fn access_key(id: String, secret: Secret) -> Result<Option<AccessKey>, ParamError> {
    match (id.is_empty(), secret.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(AccessKey { id, secret })),
        (true, false) => {
            let expected = "the id of the key, because SecretAccessKey is set";
            Err(ParamError::missing("AccessKeyID", expected))
        }
        (false, true) => {
            let expected = "the secret of the key, because AccessKeyID is set";
            Err(ParamError::missing("SecretAccessKey", expected))
        }
    }
}

fn text(key: &str, value: &Value) -> Result<String, ParamError> {
    let wrong = || ParamError::new(key, "text", value);
    Ok(value.as_str().ok_or_else(wrong)?.trim().to_owned())
}

/// Like [`text`], but without the actual value in the error.
fn secret_text(key: &str, value: &Value) -> Result<Secret, ParamError> {
    let hidden = Value::from("a hidden value");
    let wrong = || ParamError::new(key, "text", &hidden);
    Ok(Secret::new(value.as_str().ok_or_else(wrong)?.trim()))
}

/// Parses a list of names, or a map with names as keys as used by arvados-dispatch-cloud.
fn names(key: &str, value: &Value) -> Result<Vec<String>, ParamError> {
    let wrong = || ParamError::new(key, "a list of names, or a map with names as keys", value);
    let name = |name: &str| match name.trim() {
        "" => Err(wrong()),
        name => Ok(name.to_owned()),
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .iter()
            .map(|item| name(item.as_str().ok_or_else(wrong)?))
            .collect(),
        Value::Object(entries) => entries.keys().map(|key| name(key)).collect(),
        _ => Err(wrong()),
    }
}

/// Parses a name or a list of names; drops repeated names.
fn subnets(key: &str, value: &Value) -> Result<Vec<String>, ParamError> {
    let all = match value {
        Value::String(one) if one.trim().is_empty() => Vec::new(),
        Value::String(one) => vec![one.trim().to_owned()],
        Value::Null | Value::Array(_) => names(key, value)?,
        _ => {
            let expected = "the name of a subnet, or a list of names";
            return Err(ParamError::new(key, expected, value));
        }
    };
    let mut unique = Vec::new();
    for subnet in all {
        if !unique.contains(&subnet) {
            unique.push(subnet);
        }
    }
    Ok(unique)
}

/// Parses dollars, rounded to the nearest millionth.
fn dollars(key: &str, value: &Value) -> Result<MicroDollars, ParamError> {
    let price = value.as_f64().filter(|price| (0.0..1e9).contains(price));
    let wrong = || ParamError::new(key, "dollars per GiB and month, such as 0.10", value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    let micros = |price: f64| MicroDollars((price * 1e6).round() as u64);
    price.map(micros).ok_or_else(wrong)
}

fn quota_groups(key: &str, value: &Value) -> Result<BTreeMap<String, String>, ParamError> {
    let wrong = || ParamError::new(key, "a map from families of types to groups", value);
    let pair = |(family, group): (&String, &Value)| {
        let group = group.as_str().filter(|group| !group.is_empty())?;
        Some((family.clone(), group.to_owned()))
    };
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(entries) => entries
            .iter()
            .map(|entry| pair(entry).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    }
}

fn endpoint(key: &str, value: &Value) -> Result<Option<String>, ParamError> {
    let url = text(key, value)?;
    let known = url.starts_with("https://") || url.starts_with("http://");
    match url.is_empty() {
        true => Ok(None),
        false if known => Ok(Some(url)),
        false => Err(ParamError::new(
            key,
            "a URL beginning with https:// or http://",
            value,
        )),
    }
}

#[cfg(test)]
mod tests;
