//! The JSON of the web server; key order and types as the real firmware emits them (PROTOCOLS.md E2).

use serde_json::Value;

use super::{config::Auth, fault::Fault, presence::MQTT_MAX_ATTEMPTS, state::Shared};

/// Free heap of the example in PROTOCOLS.md E2, bytes.
const FREE_HEAP: u32 = 251_234;

/// `GET /api/status`.
pub(super) fn status(device: &Shared) -> String {
    let running = device.running();
    let report = device.lock().report.clone();
    let mqtt = device.lock().mqtt;
    let mac = device.reported_mac();
    format!(
        concat!(
            r#"{{"lastButton":"None","lastTime":"Never","uptime":"{uptime}s","wifiConnected":true,"#,
            r#""mqttConnected":{connected},"mqttEnabled":true,"mqttGivenUp":{given_up},"mqttFailedAttempts":{failed},"#,
            r#""mqttMaxAttempts":{most},"mqttConnectedOnce":{once},"lastMQTTAttempt":12,"freeHeap":{heap},"ipAddress":"{ip}","#,
            r#""mqttClientId":"{client_id}","deviceType":"mini","buttonCount":"4 / 100","#,
            r#""macAddress":"{mac}","chipId":"{chip_id}","hostname":{host},"firmwareVersion":{version},"#,
            r#""otaEnabled":{enabled},"otaInProgress":false,"otaStatus":"{ota_status}","otaProgress":{progress},"#,
            r#""mqttNeedsSetup":false,"history":[]}}"#
        ),
        uptime = running.uptime_s,
        connected = mqtt.connected,
        given_up = mqtt.given_up,
        failed = mqtt.n_failed,
        most = MQTT_MAX_ATTEMPTS,
        once = mqtt.connected_once,
        client_id = mqtt_client_id(device),
        heap = FREE_HEAP,
        ip = device.ip(),
        chip_id = chip_id(device),
        mac = mac,
        host = quoted(&device.config.host_name),
        version = quoted(&running.version),
        enabled = running.ota_enabled,
        ota_status = report.status,
        progress = report.progress,
    )
}

/// `GET /api/ota/status`; shows the password to everybody, as the real one does.
pub(super) fn ota_status(device: &Shared) -> String {
    let running = device.running();
    let config = &device.config;
    let password = if config.auth() == Auth::None {
        None
    } else {
        config.password.as_deref()
    };
    format!(
        concat!(
            r#"{{"otaEnabled":{enabled},"otaInProgress":false,"hostname":{host},"firmwareVersion":{version},"#,
            r#""deviceType":"mini","macAddress":"{mac}","chipId":"{chip_id}","chipModel":"{model}","chipRevision":0,"#,
            r#""cpuFreq":160,"freeHeap":{heap},"totalHeap":327680,"flashSize":{flash},"flashSpeed":80000000,"#,
            r#""ipAddress":"{ip}","rssi":-60,"ssid":"Home","uptime":{uptime},"lastRestart":512,"otaPort":{port},"#,
            r#""otaPassword":{password}}}"#
        ),
        enabled = running.ota_enabled,
        host = quoted(&config.host_name),
        version = quoted(&running.version),
        mac = device.reported_mac(),
        chip_id = chip_id(device),
        model = config.chip.model,
        heap = FREE_HEAP,
        flash = config.flash_bytes,
        ip = device.ip(),
        uptime = running.uptime_s,
        port = device.ota_port,
        password = quoted(password.unwrap_or_default()),
    )
}

/// `GET /api/ota/progress`.
pub(super) fn ota_progress(device: &Shared) -> String {
    let report = device.lock().report.clone();
    format!(
        concat!(
            r#"{{"otaInProgress":false,"otaProgress":{progress},"otaStatus":"{status}","otaError":"{error}","#,
            r#""otaElapsedTime":0,"otaEstimatedTime":0}}"#
        ),
        progress = report.progress,
        status = report.status,
        error = report.error,
    )
}

/// What is published every now and then (PROTOCOLS.md E3); it does not say which device it is.
pub(super) fn heartbeat(device: &Shared) -> String {
    let uptime = device.running().uptime_s;
    format!(r#"{{"status":"online","uptime":{uptime},"free_heap":{FREE_HEAP},"device":"ir_receiver_mini"}}"#)
}

/// Collides where two boards of one batch have one chip id (PROTOCOLS.md E3).
pub(super) fn mqtt_client_id(device: &Shared) -> String {
    format!("IRReceiver_Mini_{}", chip_id(device))
}

/// The right keys with values of wrong types.
pub(super) const WRONG_TYPES: &str = concat!(
    r#"{"uptime":{"days":[1]},"freeHeap":"lots","ipAddress":42,"deviceType":["mini"],"macAddress":false,"chipId":null,"#,
    r#""hostname":[],"firmwareVersion":{"major":-1e400},"otaEnabled":"perhaps","otaProgress":"NaN","history":7}"#
);

/// Low 32 bits of the eFuse MAC read as a little-endian number: octets 4, 3, 2, 1 (PROTOCOLS.md E3).
pub(super) fn chip_id(device: &Shared) -> String {
    if device.has(&Fault::DuplicateChipId) {
        return "d3c2b1a0".to_owned();
    }
    let [a, b, c, d, ..] = device.reported_mac().0;
    hex::encode([d, c, b, a])
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
