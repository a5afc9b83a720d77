//! Talks to one IR Remote Mini.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use model::chain::chain;
use model::device::{Hardware, Ota, Snapshot};
use model::family::{Driver, Fault, FaultKind, Method, Notes, Reason, Target, Undo, Verdict};
use model::image::Image;
use model::progress::Progress;
use net::Site;
use net::http::{self, Ask, Limits, Reply};
use proto::esp_image::Chip;

use super::pull;
use super::status::Status;
use crate::Ways;
use crate::esp::{ESPOTA, HTTP, MQTT, Memory, espota, web_update};
use crate::talk::{endpoint, host_header, no_reply};

/// What an answer may cost.
const LIMITS: Limits = Limits::USUAL;
/// How long to wait between a call that changes the OTA flag and reading it back. Guess: the flag is set before the reply.
const FLAG_READS: u8 = 3;

/// Talks to one device.
pub(super) struct IrRemoteDriver {
    site: Site,
    ways: Ways,
    target: Target,
    memory: Memory,
    /// What only `/api/ota/status` tells; it does not change while we look.
    hardware: Option<Hardware>,
    /// The signal strength that it told last.
    signal_dbm: Option<i32>,
    /// The MAC that it told last.
    mac: Option<String>,
}

impl IrRemoteDriver {
    pub(super) fn new(site: Site, ways: Ways, target: Target) -> Self {
        let memory = Memory::read(&target.notes);
        Self {
            site,
            ways,
            target,
            memory,
            hardware: None,
            signal_dbm: None,
            mac: None,
        }
    }

    fn web(&self) -> SocketAddr {
        endpoint(self.target.address, self.ways.http_port)
    }

    async fn ask(&self, method: &'static str, path: &'static str) -> Result<Reply, Fault> {
        let web = self.web();
        let host = host_header(web);
        let ask = Ask {
            method,
            path,
            content_type: None,
            body: Bytes::new(),
            headers: &[],
        };
        http::ask(&self.site.dialer, web, &host, ask, LIMITS)
            .await
            .map_err(|error| {
                let (kind, reason) = no_reply(&error);
                Fault::before_push(
                    kind,
                    reason,
                    format!("{method} http://{web}{path}: {}.", chain(&error)),
                )
            })
    }

    async fn status(&self, path: &'static str) -> Result<Status, Fault> {
        let reply = self.ask("GET", path).await?;
        let web = self.web();
        let not_understood =
            |text: String| Fault::before_push(FaultKind::Refused, Reason::NotUnderstood, text);
        if reply.status != 200 {
            let text = format!(
                "http://{web}{path} answered with status {}: this is not an IR Remote Mini.",
                reply.status
            );
            return Err(not_understood(text));
        }
        if reply.cut {
            let text = format!("The answer of http://{web}{path} does not end within 64 KiB or breaks off.");
            return Err(not_understood(text));
        }
        Status::parse(&reply.body).map_err(|error| {
            not_understood(format!(
                "The answer of http://{web}{path} is not a status: {error}."
            ))
        })
    }

    async fn set_ota(&self, path: &'static str) -> Result<(), Fault> {
        let reply = self.ask("POST", path).await?;
        if reply.status == 200 {
            return Ok(());
        }
        let text = format!("The device answered {path} with status {}.", reply.status);
        Err(Fault::before_push(FaultKind::Refused, Reason::OtaOff, text))
    }

    /// Reads the status, if it is one of this family's.
    async fn own_status(&mut self) -> Result<Status, Fault> {
        let status = self.status("/api/status").await?;
        if status.is_mini() {
            self.mac.clone_from(&status.mac);
            return Ok(status);
        }
        let text = format!(
            "What answers at http://{} says that it is {}, not an IR Remote Mini.",
            self.web(),
            status.device_type.as_deref().unwrap_or("nothing we know")
        );
        Err(Fault::before_push(
            FaultKind::Refused,
            Reason::NotUnderstood,
            text,
        ))
    }

    async fn hardware(&mut self) -> Hardware {
        if let Some(hardware) = &self.hardware {
            return hardware.clone();
        }
        let bare = Hardware {
            model: Some("mini".to_owned()),
            chip: self.target.chip.clone(),
            ..Hardware::default()
        };
        let status = match self.status("/api/ota/status").await {
            Ok(status) => status,
            // Firmware variants without this route are still devices of this family; only their chip is then not known.
            Err(fault) if fault.reason == Reason::NotUnderstood => return self.hardware.insert(bare).clone(),
            Err(_) => return bare,
        };
        let told = status.chip_model.map(|model| {
            Chip::parse(&model)
                .and_then(|chip| chip.name().map(str::to_owned))
                .unwrap_or(model)
        });
        self.signal_dbm = status.signal_dbm;
        let hardware = Hardware {
            model: Some("mini".to_owned()),
            chip: told.or_else(|| self.target.chip.clone()),
            chip_revision: status.chip_revision,
            flash_bytes: status.flash_bytes,
        };
        self.hardware = Some(hardware.clone());
        hardware
    }
}

#[async_trait]
impl Driver for IrRemoteDriver {
    async fn probe(&mut self) -> Result<Snapshot, Fault> {
        let status = self.own_status().await?;
        let hardware = self.hardware().await;
        let mut snapshot = status.snapshot(self.target.address, hardware);
        snapshot.health.signal_dbm = snapshot.health.signal_dbm.or(self.signal_dbm);
        Ok(snapshot)
    }

    async fn glance(&mut self) -> Result<Snapshot, Fault> {
        let status = self.own_status().await?;
        let hardware = self.hardware.clone().unwrap_or_default();
        Ok(status.snapshot(self.target.address, hardware))
    }

    async fn switch_ota(&mut self, on: bool) -> Result<Snapshot, Fault> {
        let (path, wanted) = if on {
            ("/api/ota/enable", Ota::Enabled)
        } else {
            ("/api/ota/disable", Ota::Disabled)
        };
        self.set_ota(path).await?;
        for _ in 0..FLAG_READS {
            let snapshot = self.glance().await?;
            if snapshot.ota == wanted {
                return Ok(snapshot);
            }
        }
        let text = format!("The device was told {path} and did not change its flag.");
        Err(Fault::before_push(FaultKind::Refused, Reason::OtaOff, text))
    }

    async fn prepare(&mut self, undo: Option<&Undo>) -> Result<Snapshot, Fault> {
        if undo.is_some() {
            self.set_ota("/api/ota/enable").await?;
        }
        self.probe().await
    }

    async fn push(&mut self, method: &Method, image: &Image, progress: &Progress) -> Result<Verdict, Fault> {
        match method.as_str() {
            ESPOTA => {
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
            HTTP => web_update::push(&self.site, self.web(), image, progress).await,
            MQTT => {
                // Read just before: its topics are named after it.
                let Some(mac) = &self.mac else {
                    return Err(Fault::before_push(
                        FaultKind::Refused,
                        Reason::NotUnderstood,
                        "The device tells no MAC address, and its topics at the broker are named after it.",
                    ));
                };
                let told = pull::Told {
                    address: self.target.address,
                    mac,
                    topic: &self.ways.status_topic,
                };
                pull::push(&self.site, told, image, progress).await
            }
            other => Err(Fault::before_push(
                FaultKind::Refused,
                Reason::Local,
                format!("There is no method {other} for this family."),
            )),
        }
    }

    async fn undo(&mut self, _undo: &Undo) -> Result<(), Fault> {
        // The flag lives in the device's memory only, and this family never undoes anything else.
        self.set_ota("/api/ota/disable").await?;
        for _ in 0..FLAG_READS {
            if self.status("/api/status").await?.ota_enabled != Some(true) {
                return Ok(());
            }
        }
        let text = "The device was told to refuse updates again, and still says that it takes them.";
        Err(Fault::before_push(FaultKind::Refused, Reason::OtaOff, text))
    }

    fn notes(&self) -> Notes {
        self.memory.write()
    }
}
