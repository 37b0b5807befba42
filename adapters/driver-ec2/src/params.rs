//! What an operator can set under `DriverParameters`.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::resources::MicroDollars;
use longshore_driver::params::{ParamError, duration};
use longshore_secret::Secret;
use serde_json::{Map, Value};

const KEYS: &str = "one of AccessKeyID, SecretAccessKey, Region, SecurityGroupIDs, SubnetID, \
                    AdminUsername, EBSVolumeType, EBSPrice, IAMInstanceProfile, \
                    SpotPriceUpdateInterval, InstanceTypeQuotaGroups, AssociatePublicIP, Endpoint";

/// Keys of the peer's other drivers, which its configuration has beside ours.
const OF_OTHER_DRIVERS: [&str; 16] = [
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

/// Volume types that need no further settings.
const VOLUME_TYPES: [&str; 5] = ["gp2", "gp3", "st1", "sc1", "standard"];

/// Settings of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2Params {
    /// How calls are signed; none for the SDK's default chain: environment, profile, web identity,
    /// the container's or the instance's role (`AccessKeyID`, `SecretAccessKey`).
    pub access_key: Option<AccessKey>,
    /// Where, such as `us-east-1` (`Region`).
    pub region: String,
    /// Groups of every network interface; none for the default group of the network
    /// (`SecurityGroupIDs`).
    pub security_groups: Vec<String>,
    /// Subnets to try, in this order; none for the default subnet (`SubnetID`).
    pub subnets: Vec<String>,
    /// Who to log in as (`AdminUsername`).
    pub admin_user: String,
    /// Type of the volumes for `AddedScratch` (`EBSVolumeType`).
    pub volume_type: String,
    /// Price of a GiB of such a volume for a month (`EBSPrice`).
    pub volume_price: MicroDollars,
    /// Name of the profile whose role instances get; empty for none (`IAMInstanceProfile`).
    pub instance_profile: String,
    /// Spot prices are asked for anew after this; none for never (`SpotPriceUpdateInterval`).
    pub spot_price_interval: Option<Duration>,
    /// Which families of types count against which quota (`InstanceTypeQuotaGroups`).
    pub quota_groups: BTreeMap<String, String>,
    /// Whether instances get a public address (`AssociatePublicIP`, new).
    pub public_address: bool,
    /// Another address of EC2's API, for tests and private endpoints (`Endpoint`, new).
    pub endpoint: Option<String>,
}

/// A key that does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// Its name.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
}

impl Default for Ec2Params {
    /// The peer's defaults; `Region` has none.
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

/// As EC2 counts its quotas of virtual CPUs; other families have each their own.
fn default_quota_groups() -> BTreeMap<String, String> {
    let standard = ["a", "c", "d", "h", "i", "m", "r", "t", "z"].map(|family| (family, "standard"));
    let others = [("g", "g"), ("vt", "g"), ("p5", "p5")];
    let all = standard.into_iter().chain(others);
    all.map(|(family, group)| (family.to_owned(), group.to_owned()))
        .collect()
}

impl Ec2Params {
    /// Reads the operator's `DriverParameters`.
    ///
    /// # Errors
    /// For the first key that is unknown, missing or has a wrong value.
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
                _ => params.read(key, value)?,
            }
        }
        if params.region.is_empty() {
            return Err(ParamError::missing("Region", "a region such as us-east-1"));
        }
        params.access_key = access_key(id, secret)?;
        Ok(params)
    }

    fn read(&mut self, key: &str, value: &Value) -> Result<(), ParamError> {
        match key {
            "Region" => self.region = text(key, value)?,
            "SecurityGroupIDs" => self.security_groups = names(key, value)?,
            "SubnetID" => self.subnets = subnets(key, value)?,
            "AdminUsername" => {
                let user = text(key, value)?;
                if user.is_empty() {
                    return Err(ParamError::new(key, "a user of the image", value));
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
            other if OF_OTHER_DRIVERS.contains(&other) => {}
            _ => return Err(ParamError::unknown_key(key, KEYS)),
        }
        Ok(())
    }

    /// The quota that a type counts against: that of its family, by the longest name of the family
    /// that is configured (`p5en`, `p5`, `p`), or else one of its own.
    #[must_use]
    pub fn quota_group(&self, provider_type: &str) -> String {
        let family = provider_type.split('.').next().unwrap_or_default();
        let letters = until(family, |c| c.is_ascii_lowercase());
        let generation = &family[letters.len()..];
        let numbered = letters.len() + until(generation, |c| c.is_ascii_digit()).len();
        let names = [family, &family[..numbered], letters];
        let configured = names.iter().find_map(|name| self.quota_groups.get(*name));
        configured.map_or(letters, String::as_str).to_owned()
    }
}

fn until(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    &text[..end]
}

fn access_key(id: String, secret: Secret) -> Result<Option<AccessKey>, ParamError> {
    match (id.is_empty(), secret.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(AccessKey { id, secret })),
        (true, false) => {
            let expected = "the name of the key, as there is SecretAccessKey";
            Err(ParamError::missing("AccessKeyID", expected))
        }
        (false, true) => {
            let expected = "the key's secret, as there is AccessKeyID";
            Err(ParamError::missing("SecretAccessKey", expected))
        }
    }
}

fn text(key: &str, value: &Value) -> Result<String, ParamError> {
    let wrong = || ParamError::new(key, "text", value);
    Ok(value.as_str().ok_or_else(wrong)?.trim().to_owned())
}

/// Like [`text`], but what is there is not repeated.
fn secret_text(key: &str, value: &Value) -> Result<Secret, ParamError> {
    let hidden = Value::from("something else");
    let wrong = || ParamError::new(key, "text", &hidden);
    Ok(Secret::new(value.as_str().ok_or_else(wrong)?.trim()))
}

/// A list of names, or a map whose keys they are, which is how the peer has it.
fn names(key: &str, value: &Value) -> Result<Vec<String>, ParamError> {
    let wrong = || ParamError::new(key, "a list of names, or a map with them as keys", value);
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

/// One name, or a list of them; each once.
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
    let mut once = Vec::new();
    for subnet in all {
        if !once.contains(&subnet) {
            once.push(subnet);
        }
    }
    Ok(once)
}

/// Dollars with a fraction, rounded to the nearest millionth.
fn dollars(key: &str, value: &Value) -> Result<MicroDollars, ParamError> {
    let price = value.as_f64().filter(|price| (0.0..1e9).contains(price));
    let wrong = || ParamError::new(key, "dollars for a GiB and a month, such as 0.10", value);
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
            "an address that begins with https://",
            value,
        )),
    }
}

#[cfg(test)]
mod tests;
