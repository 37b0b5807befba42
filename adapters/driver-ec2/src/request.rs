//! Request for `RunInstances`.
//!
//! Every request asks for exactly one instance. EC2 gives all instances of a request the same tags
//! and the same user data, with the intent and the secret of a single instance. Instances of a
//! larger request would share the secret, and a process with root rights on one instance could
//! impersonate the others.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceInterruptionBehavior, InstanceMarketOptionsRequest, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, InstanceNetworkInterfaceSpecification, MarketType,
    ResourceType, ShutdownBehavior, SpotInstanceType, SpotMarketOptions, Tag, TagSpecification,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use longshore_core::ids::IntentId;
use longshore_core::resources::MicroDollars;
use longshore_driver::{CloudError, CloudSettings, CreateSpec, tag};
use sha2::{Digest as _, Sha256};

use crate::params::Ec2Params;

/// EC2's limit for user data, before encoding.
const USER_DATA_BYTES_MAX: usize = 16 * 1024;

/// EC2's limit for `ClientToken`.
const TOKEN_CHARS_MAX: usize = 64;

/// Device of the `AddedScratch` volume, expected there by the boot script of the image.
const SCRATCH_DEVICE: &str = "/dev/xvdt";

/// Tag (without prefix) with the size of the attached volume in GiB, for the price of the instance.
pub(crate) const VOLUME_TAG: &str = "AddedScratchGiB";

/// Request for an instance in a subnet, or in a subnet chosen by EC2.
///
/// # Errors
/// `Permanent` if the request exceeds a limit of EC2.
pub(crate) fn run_instances(
    settings: &CloudSettings,
    params: &Ec2Params,
    spec: &CreateSpec,
    key_name: Option<&str>,
    subnet: Option<&str>,
) -> Result<RunInstancesInputBuilder, CloudError> {
    let scratch = volume_gib(spec)?;
    let profile = Some(params.instance_profile.as_str()).filter(|name| !name.is_empty());
    let profile = profile.map(|name| {
        IamInstanceProfileSpecification::builder()
            .name(name)
            .build()
    });
    let metadata = InstanceMetadataOptionsRequest::builder()
        .http_tokens(HttpTokensState::Required)
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .build();
    Ok(RunInstancesInputBuilder::default()
        .min_count(1)
        .max_count(1)
        .client_token(client_token(spec.intent, subnet))
        .image_id(spec.image.as_str())
        .instance_type(spec.instance_type.provider_type.as_str().into())
        .set_key_name(key_name.map(str::to_owned))
        .user_data(user_data(spec)?)
        .network_interfaces(network_interface(params, subnet))
        .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
        .metadata_options(metadata)
        .set_iam_instance_profile(profile)
        .set_block_device_mappings(scratch.map(|gib| vec![scratch_volume(params, gib)]))
        .set_instance_market_options(spec.spot_price_max().map(spot))
        .set_tag_specifications(Some(tag_specifications(settings, spec, scratch))))
}

/// Idempotency token: EC2 creates only one instance per token. The token includes the subnet, since
/// EC2 rejects a repeated token with other parameters.
pub(crate) fn client_token(intent: IntentId, subnet: Option<&str>) -> String {
    let Some(subnet) = subnet else {
        return intent.to_string();
    };
    let token = format!("{intent}-{subnet}");
    if token.len() <= TOKEN_CHARS_MAX && token.is_ascii() {
        return token;
    }
    let hash = hex::encode(Sha256::digest(subnet.as_bytes()));
    format!("{intent}-{}", &hash[..16])
}

/// User data in base64.
fn user_data(spec: &CreateSpec) -> Result<String, CloudError> {
    let script = spec.init_script.expose();
    if script.len() > USER_DATA_BYTES_MAX {
        let message = format!(
            "the init script has {} bytes, the limit of EC2 is {USER_DATA_BYTES_MAX}: shorten \
             InstanceInitCommand",
            script.len()
        );
        return Err(CloudError::Permanent { message });
    }
    Ok(STANDARD.encode(script))
}

fn network_interface(
    params: &Ec2Params,
    subnet: Option<&str>,
) -> InstanceNetworkInterfaceSpecification {
    let groups = Some(params.security_groups.clone()).filter(|groups| !groups.is_empty());
    InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .set_subnet_id(subnet.map(str::to_owned))
        .set_groups(groups)
        .associate_public_ip_address(params.public_address)
        .delete_on_termination(true)
        .build()
}

/// Size of the volume to attach in GiB, rounded up; `None` if the type needs no volume.
fn volume_gib(spec: &CreateSpec) -> Result<Option<i32>, CloudError> {
    let gib = match spec.added_scratch().div_ceil(1 << 30) {
        0 => return Ok(None),
        gib => i32::try_from(gib),
    };
    let too_much = |_| CloudError::Permanent {
        message: format!(
            "AddedScratch of type {} exceeds the size limit of EC2 volumes",
            spec.type_name
        ),
    };
    gib.map(Some).map_err(too_much)
}

fn scratch_volume(params: &Ec2Params, gib: i32) -> BlockDeviceMapping {
    let volume = EbsBlockDevice::builder()
        .volume_size(gib)
        .volume_type(params.volume_type.as_str().into())
        .delete_on_termination(true)
        .build();
    BlockDeviceMapping::builder()
        .device_name(SCRATCH_DEVICE)
        .ebs(volume)
        .build()
}

fn spot(price_max: MicroDollars) -> InstanceMarketOptionsRequest {
    let options = SpotMarketOptions::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .max_price(dollars(price_max))
        .build();
    InstanceMarketOptionsRequest::builder()
        .market_type(MarketType::Spot)
        .spot_options(options)
        .build()
}

fn dollars(MicroDollars(price): MicroDollars) -> String {
    format!("{}.{:06}", price / 1_000_000, price % 1_000_000)
}

/// Tags of instance and volumes. Volumes get all tags except the secret, because only the instance
/// needs the secret.
fn tag_specifications(
    settings: &CloudSettings,
    spec: &CreateSpec,
    scratch_gib: Option<i32>,
) -> Vec<TagSpecification> {
    let mut tags = settings.tags_for(spec);
    let of_volume = specification(ResourceType::Volume, &tags);
    tags.insert(settings.key(tag::SECRET), spec.secret.expose().to_owned());
    if let Some(gib) = scratch_gib {
        tags.insert(settings.key(VOLUME_TAG), gib.to_string());
    }
    vec![specification(ResourceType::Instance, &tags), of_volume]
}

fn specification(resource: ResourceType, tags: &BTreeMap<String, String>) -> TagSpecification {
    TagSpecification::builder()
        .resource_type(resource)
        .set_tags(Some(sdk_tags(tags)))
        .build()
}

/// Converts tags to the SDK's type.
pub(crate) fn sdk_tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
    tags.iter().map(tag).collect()
}

#[cfg(test)]
mod tests;
