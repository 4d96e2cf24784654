//! Slots made of devices: which devices each has, and its share of threads and memory.

use schedule::state::Slot;

use super::granted::cpu_threads;
use super::{DeviceChoice, DeviceError, DriverError, Inventory};

/// Divides the chosen devices into slots.
///
/// `per_slot` devices go into each slot, one by default. On the CPU a device is a thread, and
/// `count` slots share the threads; by default each thread is a slot, since two trials of one
/// thread beat one trial of two. If there are more slots than GPUs, slots share GPUs: several small
/// trials run on one GPU.
pub fn slots(
    choice: &DeviceChoice,
    count: Option<u32>,
    per_slot: Option<u32>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    for (option, value) in [("--slots", count), ("--devices-per-slot", per_slot)] {
        if value == Some(0) {
            return Err(DeviceError::Zero { option });
        }
    }
    let (count, per_slot) = (
        count.map(|count| count as usize),
        per_slot.map(|per_slot| per_slot as usize),
    );
    // a node with GPUs must not silently train on the CPU, nor on fewer GPUs
    if matches!(choice, DeviceChoice::Auto | DeviceChoice::AllGpus) {
        inventory.keeps_its_promise()?;
    }
    match choice {
        DeviceChoice::Cpu => cpu_slots(count, per_slot, inventory),
        DeviceChoice::Auto if inventory.gpus.is_empty() => match &inventory.no_gpus {
            DriverError::Silent(_) => Err(DeviceError::SilentDriver(inventory.no_gpus.clone())),
            DriverError::NoTool(_) | DriverError::NoGpu(_) => cpu_slots(count, per_slot, inventory),
        },
        DeviceChoice::Auto | DeviceChoice::AllGpus => {
            if inventory.gpus.is_empty() {
                return Err(DeviceError::NoGpus(inventory.no_gpus.clone()));
            }
            gpu_slots(
                &(0..inventory.gpus.len() as u32).collect::<Vec<_>>(),
                count,
                per_slot,
                inventory,
            )
        }
        DeviceChoice::Gpus(gpus) => gpu_slots(gpus, count, per_slot, inventory),
    }
}

/// CPU threads that the trainer of a slot may use.
pub fn threads(slot: &Slot, num_slots: usize) -> usize {
    let on_cpu = slot
        .devices
        .iter()
        .filter(|device| *device == "cpu")
        .count();
    if on_cpu > 0 {
        return on_cpu;
    }
    (cpu_threads() / num_slots.max(1)).max(1)
}

/// The fraction of a GPU's memory that each trainer may use: all of it if no other slot shares the
/// GPU.
pub fn memory_share(slot: &Slot, slots: &[Slot]) -> f64 {
    // memory of a CUDA context is outside of libtorch's limit
    const CONTEXTS: f64 = 0.03;
    let sharing = |device: &String| {
        slots
            .iter()
            .filter(|other| other.devices.contains(device))
            .count()
    };
    let gpus = slot.devices.iter().filter(|device| *device != "cpu");
    match gpus.map(sharing).max() {
        Some(count) if count > 1 => (1.0 - CONTEXTS * count as f64).max(0.5) / count as f64,
        _ => 1.0,
    }
}

fn cpu_slots(
    count: Option<usize>,
    per_slot: Option<usize>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    let threads = inventory.cpu_threads.max(1);
    let (count, per_slot) = match (count, per_slot) {
        (None, None) => (threads, 1),
        (Some(count), None) => (count, (threads / count).max(1)),
        (None, Some(per_slot)) if per_slot > threads => {
            return Err(DeviceError::Indivisible {
                devices: threads,
                what: format!("slots of {per_slot} threads"),
            });
        }
        (None, Some(per_slot)) => (threads / per_slot, per_slot),
        (Some(count), Some(per_slot)) => (count, per_slot),
    };
    if count * per_slot > threads {
        tracing::warn!(
            slots = count,
            threads_per_slot = per_slot,
            threads,
            "more threads in slots than this process may use"
        );
    }
    let description = format!(
        "{}, {per_slot} thread{}",
        inventory.cpu_name,
        if per_slot == 1 { "" } else { "s" }
    );
    Ok(vec![
        Slot {
            devices: vec!["cpu".to_owned(); per_slot],
            uuids: Vec::new(),
            description
        };
        count
    ])
}

fn gpu_slots(
    gpus: &[u32],
    count: Option<usize>,
    per_slot: Option<usize>,
    inventory: &Inventory,
) -> Result<Vec<Slot>, DeviceError> {
    for &index in gpus {
        if index as usize >= inventory.gpus.len() {
            let present = match inventory.gpus.len() {
                0 => inventory.no_gpus.to_string(),
                1 => "cuda:0 alone".to_owned(),
                count => format!("cuda:0-{}", count - 1),
            };
            return Err(DeviceError::NoSuchGpu { index, present });
        }
    }
    let per_slot = per_slot.unwrap_or(1);
    if !gpus.len().is_multiple_of(per_slot) {
        let what = format!("slots of {per_slot}");
        return Err(DeviceError::Indivisible {
            devices: gpus.len(),
            what,
        });
    }
    let groups: Vec<&[u32]> = gpus.chunks(per_slot).collect();
    let count = count.unwrap_or(groups.len());
    if count > groups.len() && !count.is_multiple_of(groups.len()) {
        let what = format!("{count} slots that share them evenly");
        return Err(DeviceError::Indivisible {
            devices: gpus.len(),
            what,
        });
    }
    let slot = |group: &[u32]| {
        let devices = group.iter().map(|index| format!("cuda:{index}")).collect();
        let first = &inventory.gpus[group[0] as usize];
        let times = if group.len() > 1 {
            format!("{} x ", group.len())
        } else {
            String::new()
        };
        let uuids = group
            .iter()
            .map(|index| inventory.gpus[*index as usize].uuid.clone())
            .collect();
        Slot {
            devices,
            uuids,
            description: format!("{times}{first}"),
        }
    };
    Ok(groups.into_iter().cycle().take(count).map(slot).collect())
}

#[cfg(test)]
mod tests {
    use super::super::granted::promise;
    use super::super::inventory::tests::machine;
    use super::*;

    fn devices(
        text: &str,
        count: Option<u32>,
        per_slot: Option<u32>,
    ) -> Result<Vec<String>, DeviceError> {
        let slots = slots(&text.parse()?, count, per_slot, &machine(3))?;
        Ok(slots.iter().map(|slot| slot.devices.join("+")).collect())
    }

    #[test]
    fn cpu_slots_fill_the_machine() {
        assert_eq!(devices("cpu", None, None).unwrap(), vec!["cpu"; 8]);
        assert_eq!(devices("cpu", Some(3), None).unwrap(), vec!["cpu+cpu"; 3]);
        assert_eq!(
            devices("cpu", None, Some(4)).unwrap(),
            vec!["cpu+cpu+cpu+cpu"; 2]
        );
        assert_eq!(devices("cpu", Some(20), None).unwrap(), vec!["cpu"; 20]);
        assert!(matches!(
            devices("cpu", None, Some(9)),
            Err(DeviceError::Indivisible { devices: 8, .. })
        ));
        assert_eq!(
            slots(&DeviceChoice::Auto, None, None, &machine(0))
                .unwrap()
                .len(),
            8
        );
    }

    #[test]
    fn gpu_slots_are_made_of_the_named_devices() {
        assert_eq!(
            devices("auto", None, None).unwrap(),
            ["cuda:0", "cuda:1", "cuda:2"]
        );
        assert_eq!(
            devices("cuda:2,0", None, Some(2)).unwrap(),
            ["cuda:2+cuda:0"]
        );
        assert_eq!(
            devices("cuda:0-1", Some(4), None).unwrap(),
            ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        );
        assert_eq!(
            devices("cuda", Some(2), None).unwrap(),
            ["cuda:0", "cuda:1"]
        );
    }

    #[test]
    fn slots_that_share_a_gpu_share_its_memory() {
        let share = |choice: &str, count| {
            let slots = slots(&choice.parse().unwrap(), count, None, &machine(3)).unwrap();
            memory_share(&slots[0], &slots)
        };
        assert_eq!(share("cuda", None), 1.0);
        assert_eq!(share("cpu", Some(4)), 1.0);
        assert!((share("cuda:0", Some(2)) - 0.47).abs() < 1e-9);
        assert!((share("cuda:0-1", Some(8)) - 0.22).abs() < 1e-9);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let refusals = [
            ("gpu", None, None, "names no devices"),
            ("cuda:", None, None, "names no devices"),
            ("cuda:3-1", None, None, "names no devices"),
            ("cuda:0-4000000000", None, None, "names no devices"),
            ("cuda:1,0-1", None, None, "`cuda:1` is named twice"),
            (
                "cuda:3",
                None,
                None,
                "no `cuda:3`: this machine has cuda:0-2",
            ),
            (
                "cuda",
                None,
                Some(2),
                "3 devices cannot be divided into slots of 2",
            ),
            (
                "cuda:0-1",
                Some(3),
                None,
                "2 devices cannot be divided into 3 slots",
            ),
            ("cpu", Some(0), None, "`--slots` must be at least 1"),
        ];
        for (text, count, per_slot, expected) in refusals {
            let error = devices(text, count, per_slot).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = slots(&DeviceChoice::AllGpus, None, None, &machine(0)).unwrap_err();
        assert_eq!(error.to_string(), "no GPU was found: none");
    }

    #[test]
    fn gpus_that_the_environment_promises_are_never_replaced_by_the_cpu() {
        let choose = |num_gpus, choice: &str, visible, on_node| {
            let inventory = Inventory {
                promise: promise(visible, on_node),
                ..machine(num_gpus)
            };
            slots(&choice.parse().unwrap(), None, None, &inventory)
        };
        let broken = [
            (
                0,
                Some("0,1"),
                None,
                "CUDA_VISIBLE_DEVICES=0,1 promises 2 GPUs, and none: check",
            ),
            (
                0,
                None,
                Some("1"),
                "SLURM_GPUS_ON_NODE=1 promises 1 GPU, and none: check",
            ),
            (
                0,
                Some("NoDevFiles"),
                Some("2"),
                "SLURM_GPUS_ON_NODE=2 promises 2 GPUs",
            ),
            (
                0,
                Some("MIG-aaaa"),
                Some("1"),
                "CUDA_VISIBLE_DEVICES=MIG-aaaa promises 1 GPU",
            ),
            (
                1,
                Some("GPU-aaaa,GPU-zzzz"),
                None,
                "nvidia-smi shows 1 of them",
            ),
        ];
        for (num_gpus, visible, on_node, expected) in broken {
            for choice in ["auto", "cuda"] {
                let error = choose(num_gpus, choice, visible, on_node).unwrap_err();
                assert!(error.to_string().contains(expected), "{choice}: {error}");
                assert!(error.to_string().contains("`--devices cpu`"), "{error}");
            }
            assert!(
                choose(num_gpus, "cpu", visible, on_node).is_ok(),
                "the user's own choice"
            );
        }
        for (visible, on_node) in [
            (None, None),
            (Some(""), Some("2")),
            (Some("-1"), Some("2")),
            (Some("NoDevFiles"), None),
            (Some("NoDevFiles"), Some("0")),
            (None, Some("")),
        ] {
            assert_eq!(choose(0, "auto", visible, on_node).unwrap().len(), 8);
        }
        assert_eq!(
            choose(2, "auto", Some("1,GPU-aaaa"), Some("4"))
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn slots_have_the_uuids_of_their_gpus() {
        let slots = slots(&"cuda:2,0".parse().unwrap(), None, Some(2), &machine(3)).unwrap();
        assert_eq!(slots[0].uuids, ["GPU-cccc", "GPU-aaaa"]);
        assert!(
            cpu_slots(None, None, &machine(0)).unwrap()[0]
                .uuids
                .is_empty()
        );
    }

    #[test]
    fn a_driver_in_trouble_does_not_make_a_machine_one_without_gpus() {
        let auto = |no_gpus| {
            let inventory = Inventory {
                no_gpus,
                ..machine(0)
            };
            slots(&DeviceChoice::Auto, None, None, &inventory)
        };
        let silent = DriverError::Silent("nvidia-smi failed".to_owned());
        assert_eq!(
            auto(silent).unwrap_err().to_string(),
            "`auto` cannot find out if there are GPUs: nvidia-smi failed; fix the driver, or pass `--devices cpu`"
        );
        let none = DriverError::NoGpu("nvidia-smi failed".to_owned());
        assert_eq!(auto(none).unwrap().len(), 8);
    }
}
