//! Between the client's types and plain values. Pure.

use std::collections::HashSet;

use aws_sdk_ec2::operation::create_fleet::CreateFleetOutput;
use aws_sdk_ec2::operation::create_fleet::builders::CreateFleetFluentBuilder;
use aws_sdk_ec2::types::{
    self, DefaultTargetCapacityType, Filter, FleetBlockDeviceMappingRequest, FleetEbsBlockDeviceRequest,
    FleetLaunchTemplateConfigRequest, FleetLaunchTemplateOverrides, FleetLaunchTemplateOverridesRequest,
    FleetLaunchTemplateSpecificationRequest, FleetOnDemandAllocationStrategy, FleetType, InstanceLifecycle,
    InstanceLifecycleType, InstanceType, OnDemandOptionsRequest, ResourceType, SpotAllocationStrategy,
    SpotInstanceType, SpotOptionsRequest, Tag, TagSpecification, TargetCapacitySpecificationRequest, VolumeType,
};
use domain::clock::Timestamp;

use crate::ec2::{
    ApiError, FleetAnswer, FleetError, FleetInstance, FleetRequest, Instance, Override, SpotPrice, SpotRequest, Subnet,
    Template, Volume,
};

/// The whole request; absent things are left out, never empty.
pub(super) fn fleet_request(builder: CreateFleetFluentBuilder, request: &FleetRequest) -> CreateFleetFluentBuilder {
    let template = FleetLaunchTemplateSpecificationRequest::builder()
        .launch_template_name(&request.launch_template)
        .version("$Latest")
        .build();
    let overrides = request.overrides.iter().map(|o| override_request(o, request.spot)).collect();
    let capacity_type =
        if request.spot { DefaultTargetCapacityType::Spot } else { DefaultTargetCapacityType::OnDemand };
    let capacity = TargetCapacitySpecificationRequest::builder()
        .total_target_capacity(i32::try_from(request.capacity).unwrap_or(i32::MAX))
        .default_target_capacity_type(capacity_type)
        .build();
    let builder = builder
        .client_token(&request.client_token)
        .r#type(FleetType::Instant)
        .launch_template_configs(
            FleetLaunchTemplateConfigRequest::builder()
                .launch_template_specification(template)
                .set_overrides(Some(overrides))
                .build(),
        )
        .target_capacity_specification(capacity);
    let builder = if request.spot {
        let strategy = SpotAllocationStrategy::PriceCapacityOptimized;
        builder.spot_options(SpotOptionsRequest::builder().allocation_strategy(strategy).build())
    } else {
        let strategy = FleetOnDemandAllocationStrategy::Prioritized;
        builder.on_demand_options(OnDemandOptionsRequest::builder().allocation_strategy(strategy).build())
    };
    if request.tags.is_empty() {
        return builder;
    }
    // Of the instances only: EC2 refuses tags of spot requests where none is made.
    let tags = TagSpecification::builder().resource_type(ResourceType::Instance).set_tags(Some(to_tags(&request.tags)));
    builder.tag_specifications(tags.build())
}

fn override_request(wanted: &Override, spot: bool) -> FleetLaunchTemplateOverridesRequest {
    FleetLaunchTemplateOverridesRequest::builder()
        .instance_type(InstanceType::from(wanted.instance_type.as_str()))
        .set_subnet_id(wanted.subnet.clone().filter(|subnet| !subnet.is_empty()))
        // Of spot pools EC2 knows priorities under another strategy only.
        .set_priority(wanted.priority.filter(|_| !spot).map(f64::from))
        .set_block_device_mappings(wanted.volume.as_ref().map(|volume| vec![mapping(volume)]))
        .build()
}

fn mapping(volume: &Volume) -> FleetBlockDeviceMappingRequest {
    let disk = FleetEbsBlockDeviceRequest::builder()
        .volume_size(i32::try_from(volume.gib).unwrap_or(i32::MAX))
        .volume_type(VolumeType::Gp3)
        .encrypted(true)
        .delete_on_termination(true)
        .build();
    FleetBlockDeviceMappingRequest::builder().device_name(&volume.device).ebs(disk).build()
}

pub(super) fn to_tags(tags: &[(String, String)]) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

pub(super) fn filter(name: &str, values: &[String]) -> Filter {
    Filter::builder().name(name).set_values(Some(values.to_vec())).build()
}

/// Every instance with what is said of it, on itself or on the override it came from.
pub(super) fn fleet_answer(answer: CreateFleetOutput) -> FleetAnswer {
    let instances = answer.instances.unwrap_or_default().into_iter().flat_map(|group| {
        let from = group.launch_template_and_overrides.and_then(|l| l.overrides);
        let from = Place::from(from);
        let launched = FleetInstance {
            id: String::new(),
            instance_type: group.instance_type.as_ref().map(word).or(from.instance_type).unwrap_or_default(),
            zone: named(group.availability_zone).or(from.zone),
            subnet: named(group.subnet_id).or(from.subnet),
            spot: group.lifecycle == Some(InstanceLifecycle::Spot),
        };
        let ids = group.instance_ids.unwrap_or_default().into_iter();
        ids.map(move |id| FleetInstance { id, ..launched.clone() })
    });
    let errors = answer.errors.unwrap_or_default().into_iter().map(|error| {
        let from = Place::from(error.launch_template_and_overrides.and_then(|l| l.overrides));
        FleetError {
            code: error.error_code.unwrap_or_default(),
            message: error.error_message.unwrap_or_default(),
            instance_type: from.instance_type,
            subnet: from.subnet,
            zone: from.zone,
        }
    });
    FleetAnswer {
        instances: instances.collect(),
        errors: errors.collect(),
        fleet_id: answer.fleet_id.unwrap_or_default(),
    }
}

/// Of an override in an answer.
struct Place {
    instance_type: Option<String>,
    subnet: Option<String>,
    zone: Option<String>,
}

impl From<Option<FleetLaunchTemplateOverrides>> for Place {
    fn from(from: Option<FleetLaunchTemplateOverrides>) -> Self {
        let Some(from) = from else { return Self { instance_type: None, subnet: None, zone: None } };
        Self {
            instance_type: named(from.instance_type.as_ref().map(word)),
            subnet: named(from.subnet_id),
            zone: named(from.availability_zone),
        }
    }
}

fn word(instance_type: &InstanceType) -> String {
    instance_type.as_str().to_owned()
}

fn named(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// `None` for one without an id, which EC2 does not have.
pub(super) fn instance(instance: types::Instance) -> Option<Instance> {
    let tags = instance.tags.unwrap_or_default().into_iter();
    Some(Instance {
        id: instance.instance_id?,
        state: instance.state.and_then(|s| s.name).map_or_else(|| "unknown".to_owned(), |n| n.as_str().to_owned()),
        instance_type: instance.instance_type.as_ref().map(word).unwrap_or_default(),
        zone: named(instance.placement.and_then(|p| p.availability_zone)),
        spot: instance.instance_lifecycle == Some(InstanceLifecycleType::Spot),
        arch: instance.architecture.map(|arch| arch.as_str().to_owned()),
        image: named(instance.image_id),
        profile: named(instance.iam_instance_profile.and_then(|profile| profile.arn)),
        launched_at: instance.launch_time.and_then(timestamp),
        transition: named(instance.state_transition_reason),
        tags: tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect(),
    })
}

fn timestamp(at: aws_smithy_types::DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

pub(super) fn subnet(subnet: types::Subnet) -> Option<Subnet> {
    Some(Subnet {
        id: subnet.subnet_id?,
        zone: subnet.availability_zone?,
        free_addresses: subnet.available_ip_address_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
    })
}

/// The newest price of each type and zone, in EC2's order. What is not a price is left out.
pub(super) fn prices(mut history: Vec<types::SpotPrice>) -> Vec<SpotPrice> {
    // EC2 does not promise an order; a row without a time is the oldest.
    history.sort_by_key(|row| std::cmp::Reverse(row.timestamp.map(|at| (at.secs(), at.subsec_nanos()))));
    let mut seen = HashSet::new();
    let rows = history.into_iter().filter_map(|row| {
        let usd = row.spot_price?.parse::<f64>().ok().filter(|usd| usd.is_finite() && *usd > 0.0)?;
        Some(SpotPrice { instance_type: row.instance_type.as_ref().map(word)?, zone: row.availability_zone?, usd })
    });
    rows.filter(|row| seen.insert((row.instance_type.clone(), row.zone.clone()))).collect()
}

/// `None` for one without an id, which EC2 does not have.
pub(super) fn spot_request(request: types::SpotInstanceRequest) -> Option<SpotRequest> {
    Some(SpotRequest {
        id: request.spot_instance_request_id?,
        instance: named(request.instance_id),
        persistent: request.r#type == Some(SpotInstanceType::Persistent),
    })
}

pub(super) fn template(version: types::LaunchTemplateVersion) -> Template {
    Template { image: named(version.launch_template_data.and_then(|data| data.image_id)) }
}

pub(super) fn no_such_template(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { code, .. } if code.starts_with("InvalidLaunchTemplateName.NotFound"))
}
