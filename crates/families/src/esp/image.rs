//! Application images for ESP chips, in the words of the model.

use model::device::Device;
use model::id::FamilyId;
use model::image::{Image, ImageInfo, Inspection, Override, Refusal};
use model::version::Versions;
use proto::esp_image::{self, Chip, Kind, Reading, Rule};

/// The only part of a version that these devices have.
pub(crate) const FIRMWARE: &str = "firmware";

/// The slot assumed where the owner names none, bytes: an application slot of Arduino's default partition table for 4 MiB of
/// flash (arduino-esp32 `tools/partitions/default.csv`).
pub(crate) const DEFAULT_SLOT_BYTES: u64 = 0x14_0000;

/// Inspects a file; `hint` is the version that its name tells.
pub(crate) fn inspect(family: &FamilyId, image: &Image, hint: Option<Versions>) -> Inspection {
    let reading = esp_image::read(image.bytes());
    let refusals: Vec<Refusal> = reading.refusals.iter().map(refusal).collect();
    let info = info(family, image, &reading, hint);
    if refusals.is_empty() {
        Inspection::Accepted(info)
    } else {
        Inspection::Refused(info, refusals)
    }
}

fn info(family: &FamilyId, image: &Image, reading: &Reading, hint: Option<Versions>) -> ImageInfo {
    let header = reading.image.as_ref();
    let descriptor = header.and_then(|header| header.descriptor.as_ref());
    let is_esp = matches!(
        reading.kind,
        Kind::App | Kind::Bootloader | Kind::Merged | Kind::Encrypted
    );
    ImageInfo {
        version_source: model::image::VersionSource::Image,
        family: is_esp.then(|| family.clone()),
        kind: reading.kind.name().to_owned(),
        chip: header.and_then(|header| header.chip.name()).map(str::to_owned),
        versions: descriptor
            .and_then(|descriptor| descriptor.stated_version())
            .map(|version| Versions::one(FIRMWARE, version)),
        hint,
        project: descriptor
            .map(|descriptor| descriptor.project.clone())
            .filter(|project| !project.is_empty()),
        signature: header
            .and_then(|header| header.signature)
            .map(|signature| signature.name().to_owned()),
        len_bytes: image.len_bytes(),
        sha256: image.sha256(),
        warnings: Vec::new(),
    }
}

fn refusal(refusal: &esp_image::Refusal) -> Refusal {
    Refusal {
        rule: refusal.rule.name().to_owned(),
        text: refusal.text.clone(),
        next_step: refusal.next_step.clone(),
        overriding: match refusal.rule {
            // The wrong chip cannot run it, and nothing at all cannot be sent.
            Rule::WrongChip | Rule::Empty => Override::Never,
            _ => Override::Possible,
        },
    }
}

/// Why this image may not go to this very device.
pub(crate) fn accepts(device: &Device, image: &Image) -> Vec<Refusal> {
    // It was inspected as a whole; a thousand devices need not cost a thousand checksums.
    let Some(header) = esp_image::head(image.bytes()) else {
        return Vec::new();
    };
    let chip = device.hardware.chip.as_deref().and_then(Chip::parse);
    let slot_bytes = device.slot_bytes.unwrap_or(DEFAULT_SLOT_BYTES);
    let mut refusals: Vec<Refusal> = header
        .fits(chip, device.hardware.chip_revision, Some(slot_bytes))
        .iter()
        .map(refusal)
        .collect();
    if let (None, Some(too_large)) = (
        device.slot_bytes,
        refusals.iter_mut().find(|r| r.rule == "too-large"),
    ) {
        too_large.next_step = String::from(
            "If the device's slots are larger (another partition table), say so with --slot-bytes N.",
        );
    }
    if chip.is_none() {
        refusals.push(Refusal {
            rule: "chip-unknown".to_owned(),
            text: match &device.hardware.chip {
                Some(chip) => format!("The device says that its chip is a {chip}, which is not known here."),
                None => {
                    "The device does not say which chip it has, so the image cannot be checked against it."
                        .to_owned()
                }
            },
            next_step: "Name the chip with --chip, for example --chip esp32c6.".to_owned(),
            overriding: Override::Possible,
        });
    }
    refusals
}
