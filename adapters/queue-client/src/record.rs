//! Reader of container records, field by field, so that an invalid field affects the demand of one
//! container and not the whole page. Absent and null fields are equivalent to empty fields.

use longshore_core::ids::{ContainerId, ImageId};
use longshore_core::input::{ContainerRecord, ContainerState, ContainerUpdate};
use longshore_core::resources::{Demand, GpuDemand, GpuStack, Version, image_size_estimate};
use longshore_core::time::Timestamp;
use serde_json::Value;

use super::parse_time;

/// Reads a record; the demand lacks the size of the mounts, provided by [`tmp_size`].
///
/// # Errors
///
/// Missing uuid, state or priority. The error names the field.
pub(super) fn container(item: &Value, own_uuid: &str) -> Result<ContainerRecord, String> {
    let update = update(item, own_uuid)?;
    let uuid = item.get("uuid").and_then(Value::as_str);
    let id: ContainerId = uuid
        .ok_or("no uuid")?
        .parse()
        .map_err(|e: longshore_core::ids::BadContainerId| e.to_string())?;
    let lock_count = item.get("lock_count").and_then(Value::as_u64).unwrap_or(0);
    let created_at = item.get("created_at").and_then(Value::as_str);
    Ok(ContainerRecord {
        id,
        state: update.state,
        priority: update.priority,
        locked_by_us: update.locked_by_us,
        lock_count: u32::try_from(lock_count).unwrap_or(u32::MAX),
        created_at: created_at.and_then(parse_time).unwrap_or(Timestamp::EPOCH),
        demand: demand(item).map_err(|fault| fault.sentence()),
    })
}

/// Reads the fields changed by an update.
///
/// # Errors
///
/// Missing state or priority. The error names the field.
pub(super) fn update(item: &Value, own_uuid: &str) -> Result<ContainerUpdate, String> {
    let state = item
        .get("state")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let state = match state {
        "Queued" => ContainerState::Queued,
        "Locked" => ContainerState::Locked,
        "Running" => ContainerState::Running,
        "Complete" => ContainerState::Complete,
        "Cancelled" => ContainerState::Cancelled,
        _ => return Err("no state that we know".into()),
    };
    // Too large for a floating-point number: read as an integer or not at all. Negative priorities
    // never occur and would mean a cancellation as well, like 0.
    let priority = match item.get("priority") {
        Some(Value::Number(n)) => n.as_u64().or_else(|| n.as_i64().map(|_| 0)),
        _ => None,
    };
    let locked_by = item.get("locked_by_uuid").and_then(Value::as_str);
    Ok(ContainerUpdate {
        state,
        priority: priority.ok_or("no priority that is a whole number")?,
        locked_by_us: locked_by == Some(own_uuid),
    })
}

/// Sum of the capacities of a record's `tmp` mounts in bytes.
///
/// # Errors
///
/// A sentence for the container's owner.
pub(super) fn tmp_size(item: &Value) -> Result<u64, String> {
    let sum = || {
        let mut sum: u64 = 0;
        let mounts = Fields::of(item, "mounts", String::new())?;
        for path in mounts.names() {
            let mount = mounts.section(path)?;
            if mount.text("kind")?.as_deref() == Some("tmp") {
                sum = sum.saturating_add(mount.whole("capacity")?);
            }
        }
        Ok(sum)
    };
    sum().map_err(|fault: Fault| fault.sentence())
}

fn demand(item: &Value) -> Result<Demand, Fault> {
    let record = Fields {
        path: String::new(),
        object: item.as_object(),
    };
    let wants = record.section("runtime_constraints")?;
    let scheduling = record.section("scheduling_parameters")?;
    let image = record.text("container_image")?.unwrap_or_default();
    let vm_image = wants.text("instance_image_id")?;
    Ok(Demand {
        vcpus: wants.small("vcpus")?,
        ram: wants.whole("ram")?,
        keep_cache_ram: wants.whole("keep_cache_ram")?,
        keep_cache_disk: wants.whole("keep_cache_disk")?,
        tmp: 0,
        image_size: image_size_estimate(&image),
        gpu: gpu(&wants.section("gpu")?)?,
        preemptible: scheduling.bool("preemptible")?,
        supervisor: scheduling.bool("supervisor")?,
        vm_image: vm_image.filter(|id| !id.is_empty()).map(ImageId::new),
    })
}

/// `None` for a count of 0; the other fields are ignored.
fn gpu(gpu: &Fields<'_>) -> Result<Option<GpuDemand>, Fault> {
    let count = gpu.small("device_count")?;
    if count == 0 {
        return Ok(None);
    }
    let stack = match gpu.text("stack")?.as_deref() {
        Some("cuda") => GpuStack::Cuda,
        Some("rocm") => GpuStack::Rocm,
        _ => return Err(gpu.fault("stack", "cuda or rocm")),
    };
    let driver = match gpu.text("driver_version")?.as_deref() {
        // Any version.
        None | Some("") => Version { major: 0, minor: 0 },
        Some(text) => text
            .parse()
            .map_err(|_| gpu.fault("driver_version", "a version such as \"12.2\""))?,
    };
    Ok(Some(GpuDemand {
        stack,
        driver,
        targets: gpu.texts("hardware_target")?,
        count,
        vram: gpu.whole("vram")?,
    }))
}

/// Invalid field of a record.
struct Fault {
    field: String,
    found: &'static str,
    expected: &'static str,
}

impl Fault {
    fn sentence(&self) -> String {
        format!(
            "the container's record is not valid: {} is {}, expected {}; submit it again with such a value",
            self.field, self.found, self.expected
        )
    }
}

/// Object within a record; an absent object has no fields.
struct Fields<'a> {
    path: String,
    object: Option<&'a serde_json::Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn of(item: &'a Value, name: &str, path: String) -> Result<Self, Fault> {
        let object = item.as_object();
        Self { path, object }.section(name)
    }

    fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.object
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
    }

    /// Value of a field; `None` if absent or null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object?.get(name).filter(|value| !value.is_null())
    }

    fn section(&self, name: &str) -> Result<Fields<'a>, Fault> {
        let object = match self.get(name) {
            None => None,
            Some(Value::Object(object)) => Some(object),
            Some(_) => return Err(self.fault(name, "an object")),
        };
        let path = self.path_of(name);
        Ok(Fields { path, object })
    }

    fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.fault(name, "text")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Fault> {
        let fault = || self.fault(name, "a list of texts");
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(fault);
                items.iter().map(text).collect()
            }
            Some(_) => Err(fault()),
        }
    }

    fn bool(&self, name: &str) -> Result<bool, Fault> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.fault(name, "true or false")),
        }
    }

    fn whole(&self, name: &str) -> Result<u64, Fault> {
        let fault = || self.fault(name, "a whole number of 0 or more");
        self.get(name)
            .map_or(Ok(0), |value| value.as_u64().ok_or_else(fault))
    }

    fn small(&self, name: &str) -> Result<u32, Fault> {
        let fault = |_| self.fault(name, "a whole number from 0 to 4294967295");
        u32::try_from(self.whole(name)?).map_err(fault)
    }

    fn fault(&self, name: &str, expected: &'static str) -> Fault {
        let found = match self.get(name) {
            None | Some(Value::Null) => "missing",
            Some(Value::Bool(_)) => "true or false",
            Some(Value::Number(n)) if n.is_u64() => "another whole number",
            Some(Value::Number(n)) if n.is_i64() => "a negative number",
            Some(Value::Number(_)) => "a fraction",
            Some(Value::String(_)) => "text",
            Some(Value::Array(_)) => "a list",
            Some(Value::Object(_)) => "an object",
        };
        // Text of the right type with an invalid value.
        let found = match (found, expected) {
            ("text", "cuda or rocm" | "a version such as \"12.2\"") => "some other text",
            _ => found,
        };
        Fault {
            field: self.path_of(name),
            found,
            expected,
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::resources::MIB;
    use proptest::prelude::*;
    use serde_json::json;

    const UUID: &str = "zzzzz-dz642-0123456789abcde";

    fn read(item: &Value) -> ContainerRecord {
        container(item, "us").unwrap_or_else(|e| panic!("{e}"))
    }

    fn whole_record() -> Value {
        json!({
            "uuid": UUID,
            "state": "Locked",
            "priority": 562_949_953_421_312_001_u64,
            "locked_by_uuid": "us",
            "lock_count": 3,
            "created_at": "1970-01-01T00:00:01.5Z",
            "container_image": "d740a57097711e08eb9b2a93518f20ab+342",
            "runtime_constraints": {
                "API": true, "vcpus": 2, "ram": 3, "keep_cache_ram": 4, "keep_cache_disk": 5,
                "instance_image_id": "ami-7",
                "gpu": {"stack": "rocm", "driver_version": "6.2", "hardware_target": ["gfx1100"],
                        "device_count": 2, "vram": 6},
            },
            "scheduling_parameters": {"partitions": null, "preemptible": true, "supervisor": true},
        })
    }

    #[test]
    fn complete_record_is_read_exactly() {
        let record = read(&whole_record());
        assert_eq!(record.id.as_str(), UUID);
        assert_eq!(record.state, ContainerState::Locked);
        assert_eq!(record.priority, 562_949_953_421_312_001);
        assert!(record.locked_by_us);
        assert_eq!(record.lock_count, 3);
        assert_eq!(record.created_at, Timestamp::from_nanos(1_500_000_000));
        let version = Version { major: 6, minor: 2 };
        let demand = Demand {
            vcpus: 2,
            ram: 3,
            keep_cache_ram: 4,
            keep_cache_disk: 5,
            tmp: 0,
            image_size: 6 * 64 * MIB,
            gpu: Some(GpuDemand {
                stack: GpuStack::Rocm,
                driver: version,
                targets: vec!["gfx1100".into()],
                count: 2,
                vram: 6,
            }),
            preemptible: true,
            supervisor: true,
            vm_image: Some(ImageId::from("ami-7")),
        };
        assert_eq!(record.demand, Ok(demand));
    }

    #[test]
    fn absent_and_null_fields_are_empty() {
        let least = json!({"uuid": UUID, "state": "Queued", "priority": 1});
        let record = read(&least);
        assert_eq!(record.demand, Ok(Demand::default()));
        assert!(!record.locked_by_us);
        let nulls = json!({"uuid": UUID, "state": "Queued", "priority": 1,
            "runtime_constraints": {"vcpus": null, "gpu": null}, "scheduling_parameters": null,
            "container_image": null, "locked_by_uuid": null, "lock_count": null, "created_at": null});
        assert_eq!(read(&nulls), record);
    }

    #[test]
    fn field_of_wrong_type_is_reported() {
        for (field, inner, wrong, expected) in [
            (
                "runtime_constraints",
                "vcpus",
                json!("2"),
                "runtime_constraints.vcpus is text",
            ),
            (
                "runtime_constraints",
                "ram",
                json!(-1),
                "runtime_constraints.ram is a negative",
            ),
            (
                "runtime_constraints",
                "ram",
                json!(1.5),
                "runtime_constraints.ram is a fraction",
            ),
            (
                "runtime_constraints",
                "vcpus",
                json!(1_u64 << 40),
                "from 0 to 4294967295",
            ),
            (
                "runtime_constraints",
                "gpu",
                json!([]),
                "runtime_constraints.gpu is a list",
            ),
            (
                "runtime_constraints",
                "gpu",
                json!({"device_count": 1}),
                "gpu.stack is missing",
            ),
            (
                "runtime_constraints",
                "gpu",
                json!({"device_count": 1, "stack": "cuda", "driver_version": "new"}),
                "gpu.driver_version is some other text",
            ),
            (
                "scheduling_parameters",
                "preemptible",
                json!(1),
                "preemptible is another whole",
            ),
        ] {
            let mut item = whole_record();
            item[field][inner] = wrong;
            let sentence = read(&item).demand.err().unwrap_or_default();
            assert!(sentence.contains(expected), "{sentence}");
        }
        let mut item = whole_record();
        item["container_image"] = json!(7);
        assert!(read(&item).demand.is_err());
        item["runtime_constraints"] = json!("none");
        assert!(read(&item).demand.is_err());
    }

    #[test]
    fn missing_key_field_is_an_error() {
        for field in ["uuid", "state", "priority"] {
            let mut item = whole_record();
            item[field] = Value::Null;
            let why = container(&item, "us").err().unwrap_or_default();
            assert!(why.contains(field), "{why}");
        }
        let mut item = whole_record();
        item["priority"] = json!(5.6e17);
        assert!(container(&item, "us").is_err());
        item["priority"] = json!(-1);
        assert_eq!(read(&item).priority, 0);
    }

    #[test]
    fn only_tmp_mounts_count() {
        let mounts = json!({"mounts": {
            "/tmp": {"kind": "tmp", "capacity": 5},
            "/more": {"kind": "tmp", "capacity": u64::MAX},
            "/keep": {"kind": "collection", "capacity": "lots"},
            "stdout": {"kind": "file", "path": "/x"},
        }});
        assert_eq!(tmp_size(&mounts), Ok(u64::MAX));
        assert_eq!(tmp_size(&json!({"mounts": null})), Ok(0));
        let wrong = json!({"mounts": {"/tmp": {"kind": "tmp", "capacity": "5"}}});
        let sentence = tmp_size(&wrong).err().unwrap_or_default();
        assert!(
            sentence.contains("mounts./tmp.capacity is text"),
            "{sentence}"
        );
        assert!(tmp_size(&json!({"mounts": []})).is_err());
        assert!(tmp_size(&json!({"mounts": {"/tmp": 1}})).is_err());
    }

    /// Any JSON value, a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9.]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,9}", inner, 0..4)
                    .prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_field_value_does_not_panic(
            at in proptest::sample::select(vec!["/runtime_constraints", "/runtime_constraints/gpu", "/runtime_constraints/gpu/hardware_target", "/scheduling_parameters/supervisor", "/created_at", "/lock_count", "/priority", "/uuid"]),
            value in any_json(),
        ) {
            let mut item = whole_record();
            if let Some(place) = item.pointer_mut(at) {
                *place = value.clone();
            }
            let _ = (container(&item, "us"), tmp_size(&json!({ "mounts": value })));
        }
    }
}
