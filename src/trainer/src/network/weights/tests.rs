//! Weight files in every form that users have, files that do not fit, and a round trip of a
//! network.
//!
//! goldens/weights holds state dicts that PyTorch wrote (goldens/make_weight_files.py).

use std::path::{Path, PathBuf};

use sweep::settings::{Init, Model};
use tch::{Device, Kind, Tensor};

use super::{Weights, WeightsError, export, files};
use crate::network::nn::{
    BatchNorm, Builder, Conv2d, ConvOptions, Fill, FlatLayout, Format, Inventory, Linear, Options,
    Padding, Storage,
};

const HEAD: &[&str] = &["fc", "cls_head"];

/// A file cut anywhere or with any byte changed is rejected or read, but nothing panics.
#[test]
fn damaged_files_do_not_panic() {
    let path = scratch("damaged");
    let inventory = tiny(1, 3);
    for name in ["state_dict.pth", "before_1.6.pth"] {
        let whole = std::fs::read(file(name)).unwrap();
        for at in (0..whole.len()).step_by(13) {
            let mut changed = whole.clone();
            changed[at] ^= 0x41;
            for bytes in [&whole[..at], &changed] {
                std::fs::write(&path, bytes).unwrap();
                let _ = Weights::read(&path, &inventory, HEAD);
            }
        }
    }
    std::fs::remove_file(path).unwrap();
}

/// Returns an archive as PyTorch writes it, around any pickle and storages.
fn archive(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let names = (0..storages.len()).map(|index| format!("w/data/{index}"));
    for (name, bytes) in names
        .zip(storages)
        .chain([("w/data.pkl".to_owned(), &pickle)])
    {
        archive.start_file(name, stored).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Pickles that nest deeper than any stack, that contain themselves, or in which every level
/// doubles the one before.
#[test]
fn hostile_pickles_are_refused_without_a_crash() {
    const DEEP: usize = 2_000_000;
    let nested_lists = [
        b"\x80\x02".as_slice(),
        &b"]".repeat(DEEP),
        &b"a".repeat(DEEP - 1),
        b".",
    ]
    .concat();
    let nested_tuples = [b"\x80\x02N".as_slice(), &b"\x85".repeat(DEEP), b"."].concat();
    let nested_dicts = [
        b"\x80\x02".as_slice(),
        &b"}K\x01".repeat(DEEP),
        b"N",
        &b"s".repeat(DEEP),
        b".",
    ]
    .concat();
    let holds_itself = b"\x80\x02}q\x00U\x01ah\x00s.".to_vec();
    let list_in_itself = b"\x80\x02]q\x00h\x00a.".to_vec();
    let doubling = [
        b"\x80\x02Nq\x00".as_slice(),
        &b"h\x00h\x00\x86q\x00".repeat(64),
        b".",
    ]
    .concat();
    let appended_to_itself = b"\x80\x02N]q\x00a.".to_vec();
    let path = scratch("hostile");
    for pickle in [
        nested_lists,
        nested_tuples,
        nested_dicts,
        holds_itself,
        list_in_itself,
        doubling,
        appended_to_itself,
    ] {
        for bytes in [archive(&pickle, &[]), pickle] {
            std::fs::write(&path, bytes).unwrap();
            Weights::read(&path, &tiny(1, 3), HEAD).unwrap_err();
        }
    }
    std::fs::remove_file(path).unwrap();
}

/// A tensor that repeats a storage of four bytes a million million times.
#[test]
fn a_tensor_larger_than_its_storage_is_refused() {
    let mut pickle =
        b"\x80\x02}U\x01xctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n"
            .to_vec();
    pickle.extend(
        b"U\x010U\x03cpuK\x01tQK\x00(J\x40\x42\x0f\x00J\x40\x42\x0f\x00t(K\x00K\x00t\x89)tRs.",
    );
    let path = scratch("stretched");
    std::fs::write(&path, archive(&pickle, &[&[0; 4]])).unwrap();
    let error = Weights::read(&path, &tiny(1, 3), HEAD)
        .unwrap_err()
        .to_string();
    assert!(error.contains("more elements than its storage"), "{error}");
    std::fs::remove_file(path).unwrap();
}

/// Returns the parameters that the file lacks: the new layers.
fn new_parameters(weights: &Weights) -> Vec<usize> {
    let indices = weights.parameters.iter().enumerate();
    indices
        .filter_map(|(index, tensor)| tensor.is_none().then_some(index))
        .collect()
}

/// The network of make_weight_files.py.
fn tiny(channels: i64, classes: i64) -> Inventory {
    let builder = Builder::new(Options {
        init: Init::Torchvision,
        batch_norm_eps: 1e-5,
    });
    let fill = Fill::KaimingNormalFanOut;
    let options = ConvOptions {
        stride: 1,
        padding: Padding::Symmetric(0),
        groups: 1,
        bias: false,
        fill,
    };
    Conv2d::new(&(&builder / "conv1"), channels, 2, 3, options);
    BatchNorm::new(&(&builder / "bn1"), 2);
    Linear::new(&(&builder / "fc"), 2, classes, true);
    builder.inventory()
}

fn storage(inventory: &Inventory, bf16: bool) -> Storage<()> {
    let layout = FlatLayout::new(inventory, Format { bf16 }, |_| ());
    Storage::new(inventory, layout, 1, Device::Cpu).unwrap()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("goldens/weights")
        .join(name)
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weights-{}-{name}", std::process::id()))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view(-1)).unwrap()
}

fn misfit(path: &Path, inventory: &Inventory) -> String {
    match Weights::read(path, inventory, HEAD).unwrap_err() {
        error @ WeightsError::Misfit { .. } => error.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn state_dicts_are_read() {
    for name in [
        "state_dict.pth",
        "half.pth",
        "before_1.6.pth",
        "checkpoint.pth",
        "parallel.pth",
    ] {
        let inventory = tiny(1, 3);
        let weights = Weights::read(&file(name), &inventory, HEAD).unwrap();
        assert_eq!(new_parameters(&weights), Vec::<usize>::new());
        let mut storage = storage(&inventory, false);
        weights.load_into(&inventory, &mut storage);
        let conv: Vec<f32> = (0..18).map(|index| index as f32 * 0.25).collect();
        assert_eq!(
            values(&storage.parameters[0]),
            conv,
            "{name}: the working view sees the loaded kernel"
        );
        assert_eq!(
            values(&storage.buffers[0]),
            [3.0, 3.25],
            "{name}: running_mean"
        );
        assert_eq!(
            values(&storage.parameters[4]),
            [7.0, 7.25, 7.5],
            "{name}: fc.bias"
        );
    }
}

#[test]
fn bf16_working_copies_follow() {
    let inventory = tiny(1, 3);
    let mut storage = storage(&inventory, true);
    Weights::read(&file("state_dict.pth"), &inventory, HEAD)
        .unwrap()
        .load_into(&inventory, &mut storage);
    assert_eq!(storage.parameters[0].kind(), Kind::BFloat16);
    assert_eq!(values(&storage.parameters[0])[17], 4.25);
}

#[test]
fn a_classifier_of_another_size_is_new_as_a_whole() {
    let inventory = tiny(1, 5);
    let weights = Weights::read(&file("state_dict.pth"), &inventory, HEAD).unwrap();
    let names: Vec<&str> = new_parameters(&weights)
        .iter()
        .map(|&index| inventory.parameters[index].name.as_str())
        .collect();
    assert_eq!(names, ["fc.weight", "fc.bias"]);
    let mut loaded = storage(&inventory, false);
    let before = values(&loaded.parameters[3]);
    weights.load_into(&inventory, &mut loaded);
    assert_eq!(
        values(&loaded.parameters[3]),
        before,
        "it keeps its initial values"
    );
}

#[test]
fn misfits_are_named_in_one_error() {
    let text = misfit(&file("state_dict.pth"), &tiny(3, 3));
    assert!(
        text.ends_with("of another shape: conv1.weight is [2, 1, 3, 3] in the file and [2, 3, 3, 3] in the model"),
        "{text}"
    );
    let mut inventory = tiny(1, 3);
    inventory.parameters[0].name = "stem.weight".to_owned();
    inventory.buffers[1].shape = vec![4];
    let text = misfit(&file("state_dict.pth"), &inventory);
    for part in [
        "missing: stem.weight; ",
        "not in the model: conv1.weight; ",
        "bn1.running_var is [2] in the file and [4]",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn long_lists_are_cut() {
    let builder = Builder::new(Options {
        init: Init::Torchvision,
        batch_norm_eps: 1e-5,
    });
    crate::network::models::build(Model::Resnet20, &builder, 3);
    let text = misfit(&file("state_dict.pth"), &builder.inventory());
    assert!(text.contains(" more") && text.len() < 2000, "{text}");
}

#[test]
fn other_files_are_refused_with_advice() {
    let unknown = scratch("unknown");
    std::fs::write(&unknown, b"no weights at all").unwrap();
    let cut = scratch("cut.pth");
    std::fs::write(&cut, &std::fs::read(file("state_dict.pth")).unwrap()[..700]).unwrap();
    let cases = [
        (
            file("list.pth"),
            "it holds no state dict; save model.state_dict()",
        ),
        (
            file("object.pth"),
            "save model.state_dict() and nothing else",
        ),
        (
            unknown.clone(),
            "neither safetensors nor a PyTorch state dict",
        ),
        (cut.clone(), "the archive is damaged"),
        (file("absent.pth"), "cannot read the weights file"),
    ];
    for (path, advice) in cases {
        let text = Weights::read(&path, &tiny(1, 3), HEAD)
            .unwrap_err()
            .to_string();
        assert!(text.contains(advice), "{text}");
    }
    std::fs::remove_file(unknown).unwrap();
    std::fs::remove_file(cut).unwrap();
}

/// A sweep may name any file that its worker can read: errors must not reveal its content.
#[test]
fn a_file_that_is_no_weights_file_is_never_quoted() {
    let header =
        br#"{"hunter2": "hunter3", "hunter4": {"dtype": "hunter5", "shape": ["hunter6"]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let dictionary = b"\x80\x02}U\x07hunter2U\x07hunter3s.";
    let stream = [&dictionary[..], b"\x80\x02U\x07hunter2."].concat();
    for (number, content) in [&safetensors[..], dictionary, &stream, b"hunter2 hunter3"]
        .into_iter()
        .enumerate()
    {
        let path = scratch(&format!("secret-{number}"));
        std::fs::write(&path, content).unwrap();
        let error = Weights::read(&path, &tiny(1, 3), HEAD)
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("hunter") && error.contains("is not a weights file that can be read"),
            "{error}"
        );
        std::fs::remove_file(path).unwrap();
    }
    assert!(
        Weights::read(Path::new("/dev/zero"), &tiny(1, 3), HEAD).is_err(),
        "a device has no end"
    );
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let path = scratch("nan.safetensors");
    let inventory = tiny(1, 3);
    let source = storage(&inventory, false);
    let _ = source.master(&inventory, 1).fill_(f64::NAN);
    export(&path, &inventory, &source, Default::default()).unwrap();
    let text = Weights::read(&path, &inventory, HEAD)
        .unwrap_err()
        .to_string();
    assert!(text.ends_with("are not finite: bn1.weight"), "{text}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_network_survives_a_round_trip() {
    let path = &scratch("round-trip.safetensors");
    let builder = Builder::new(Options {
        init: Init::Keras,
        batch_norm_eps: 1e-3,
    });
    let backbone = crate::network::models::build(Model::Resnet8, &builder, 1);
    Linear::new(&(&builder / "fc"), backbone.num_features, 10, true);
    let inventory = builder.inventory();
    let source = storage(&inventory, false);
    let _ = source.buffers[0].shallow_clone().fill_(0.75);
    export(path, &inventory, &source, Default::default()).unwrap();
    let layout = FlatLayout::new(&inventory, Format { bf16: false }, |_| ());
    let mut copy: Storage<()> = Storage::new(&inventory, layout, 2, Device::Cpu).unwrap();
    Weights::read(path, &inventory, HEAD)
        .unwrap()
        .load_into(&inventory, &mut copy);
    for (index, (a, b)) in source.parameters.iter().zip(&copy.parameters).enumerate() {
        assert_eq!(values(a), values(b), "{}", inventory.parameters[index].name);
    }
    assert_eq!(values(&copy.buffers[0])[0], 0.75);
    assert_eq!(
        files::read(path).unwrap().len(),
        inventory.parameters.len() + inventory.buffers.len()
    );
    std::fs::remove_file(path).unwrap();
}
