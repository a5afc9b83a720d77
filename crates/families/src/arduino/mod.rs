//! A plain `ArduinoOTA` sketch: it takes images and tells nothing (PROTOCOLS.md section B).
//!
//! Without a status nothing can be proven: the evidence is its OK, that it went away, and that it is back.
//! It is never guessed: whoever wants it names it, and the chip with it.

use std::net::SocketAddr;

use async_trait::async_trait;
use model::chain::chain;
use model::device::{Device, Hardware, Health, Ota, Snapshot};
use model::family::{
    Driver, Family, Fault, FaultKind, Label, Method, Notes, Reason, Target, Timing, Undo, Verdict,
};
use model::id::{DeviceId, FamilyId};
use model::image::{Image, ImageInfo, Inspection, Refusal};
use model::installed::Installed;
use model::progress::Progress;
use model::version::{Relation, Versions};
use net::{Presence, Site};

use crate::Ways;
use crate::esp::{self, ESPOTA, Memory, espota};
use crate::talk::endpoint;

/// The family.
pub(crate) struct Arduino {
    site: Site,
    ways: Ways,
}

impl Arduino {
    pub(crate) fn new(site: Site, ways: Ways) -> Self {
        Self { site, ways }
    }
}

impl Family for Arduino {
    fn id(&self) -> FamilyId {
        FamilyId::new("arduino")
    }

    fn title(&self) -> &'static str {
        "ArduinoOTA sketch"
    }

    fn inspect(&self, image: &Image) -> Inspection {
        if image.file_name().to_lowercase().ends_with(".mbin") {
            return Inspection::NotMine;
        }
        esp::image::inspect(&self.id(), image, None)
    }

    fn guessable(&self) -> bool {
        false
    }

    fn relate(&self, _installed: &Versions, _offered: &Versions) -> Relation {
        Relation::Unknown
    }

    fn accepts(&self, device: &Device, _image: &ImageInfo, bytes: &Image) -> Vec<Refusal> {
        esp::image::accepts(device, bytes)
    }

    fn methods(&self, _device: &Device) -> Vec<Method> {
        vec![Method::new(ESPOTA)]
    }

    fn timing(&self, _device: &Device, image_len_bytes: u64) -> Timing {
        crate::ir_remote::timing(image_len_bytes)
    }

    fn undo(&self, _before: &Snapshot) -> Option<Undo> {
        None
    }

    fn label(&self, _: &Snapshot, _: &ImageInfo, _: Option<&Installed>, _: &Snapshot) -> Label {
        Label::Unreadable
    }

    fn open(&self, target: Target) -> Box<dyn Driver> {
        let memory = Memory::read(&target.notes);
        Box::new(ArduinoDriver {
            site: self.site.clone(),
            ways: self.ways.clone(),
            target,
            memory,
        })
    }
}

/// Talks to one sketch.
struct ArduinoDriver {
    site: Site,
    ways: Ways,
    target: Target,
    memory: Memory,
}

impl ArduinoDriver {
    fn ota(&self) -> SocketAddr {
        endpoint(self.target.address, self.ways.ota_port)
    }
}

#[async_trait]
impl Driver for ArduinoDriver {
    async fn probe(&mut self) -> Result<Snapshot, Fault> {
        let ota = self.ota();
        let presence = net::present(&self.site.dialer, ota).await.map_err(|error| {
            Fault::before_push(
                FaultKind::Refused,
                Reason::Local,
                format!("Looking for the device: {}.", chain(&error)),
            )
        })?;
        match presence {
            Presence::Listening => {}
            Presence::NotListening => {
                let text = format!("The device is there, but does not listen on UDP {ota}.");
                return Err(Fault::before_push(FaultKind::Unreachable, Reason::NoAnswer, text));
            }
            Presence::Gone => {
                let text = format!("Nobody is there at {}.", ota.ip());
                return Err(Fault::before_push(FaultKind::Unreachable, Reason::NoAnswer, text));
            }
        }
        Ok(Snapshot {
            id: DeviceId::weak(
                &FamilyId::new("arduino"),
                format!("{}:{}", self.target.given_as, ota.port()),
            ),
            versions: Versions::default(),
            uptime: None,
            ota: Ota::Unknown,
            busy: false,
            host_name: None,
            hardware: Hardware {
                chip: self.target.chip.clone(),
                ..Hardware::default()
            },
            health: Health::default(),
        })
    }

    async fn prepare(&mut self, _undo: Option<&Undo>) -> Result<Snapshot, Fault> {
        self.probe().await
    }

    async fn push(&mut self, _method: &Method, image: &Image, progress: &Progress) -> Result<Verdict, Fault> {
        espota::push(
            &self.site,
            &self.ways,
            &self.target,
            &mut self.memory,
            image,
            progress,
        )
        .await
    }

    async fn undo(&mut self, _undo: &Undo) -> Result<(), Fault> {
        Ok(())
    }

    fn notes(&self) -> Notes {
        self.memory.write()
    }
}
