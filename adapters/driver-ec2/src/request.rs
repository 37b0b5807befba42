//! What `RunInstances` is asked for.
//!
//! Each request asks for exactly one instance. EC2 gives all instances of one request the same tags
//! and the same user data, and ours carry the intent and the secret of one instance: a batch would
//! have to share them, and whoever rules one VM could then pass for its siblings.

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

/// As much user data as EC2 takes, before it is encoded.
const USER_DATA_BYTES_MAX: usize = 16 * 1024;

/// EC2's limit for `ClientToken`.
const TOKEN_CHARS_MAX: usize = 64;

/// Where the volume of `AddedScratch` is attached; the VM's boot script looks for it there.
const SCRATCH_DEVICE: &str = "/dev/xvdt";

/// Tag (behind the prefix) with the GiB of the attached volume, which costs beside the instance.
pub(crate) const VOLUME_TAG: &str = "AddedScratchGiB";

/// The request for an instance in a subnet, or wherever EC2 puts it.
///
/// # Errors
/// `Permanent` if EC2 cannot take it at all.
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

/// EC2 makes one instance for a token, however often it hears it. The subnet is a part of it, since
/// EC2 refuses a token that comes again with other parameters.
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

/// In the form in which EC2 takes it.
fn user_data(spec: &CreateSpec) -> Result<String, CloudError> {
    let script = spec.init_script.expose();
    if script.len() > USER_DATA_BYTES_MAX {
        let message = format!(
            "the init script has {} bytes, EC2 takes {USER_DATA_BYTES_MAX}: shorten \
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

/// GiB of the volume to attach, rounded up; none where the type has all that it needs.
fn volume_gib(spec: &CreateSpec) -> Result<Option<i32>, CloudError> {
    let gib = match spec.added_scratch().div_ceil(1 << 30) {
        0 => return Ok(None),
        gib => i32::try_from(gib),
    };
    let too_much = |_| CloudError::Permanent {
        message: format!(
            "AddedScratch of type {} is more than EC2 has volumes for",
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

/// Volumes get all tags but the secret, which is nobody's business but the instance's.
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

/// Tags as the SDK has them.
pub(crate) fn sdk_tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
    tags.iter().map(tag).collect()
}

#[cfg(test)]
mod tests;
