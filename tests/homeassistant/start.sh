#!/usr/bin/env bash
# Starts Home Assistant over a folder with its configuration, and waits until it answers: start.sh INSTALLED FOLDER
# INSTALLED is the folder of install.sh. It listens on loopback alone, at HA_PORT (18123), and writes FOLDER/hass.pid.
set -euo pipefail
installed=$(realpath -s "$1")
mkdir -p "$2/.storage" "$2/custom_components"
config=$(realpath -s "$2")
port=${HA_PORT:-18123}

# An `http:` in the YAML is taken on trial only, and given up five minutes later; so the settings are stored as if the
# user had made them (Home Assistant 2026.11, components/http/config.py).
if [[ ! -e $config/.storage/http ]]; then
    cat >"$config/.storage/http" <<J
{"version": 3, "minor_version": 1, "key": "http", "data": {"stable": {"server_port": $port, "server_host": ["127.0.0.1"],
"cors_allowed_origins": ["https://cast.home-assistant.io"], "login_attempts_threshold": -1, "ip_ban_enabled": true,
"ssl_profile": "intermediate_v6", "use_x_frame_options": true, "created_at": "2026-01-01T00:00:00+00:00", "error": null,
"error_message": null}, "pending": null, "yaml_migration_done": true}}
J
fi
[[ -e $config/configuration.yaml ]] || cat >"$config/configuration.yaml" <<'Y'
homeassistant: { name: Test, latitude: 0, longitude: 0, elevation: 0, unit_system: metric, time_zone: UTC }
frontend:
config:
api:
websocket_api:
Y

PATH=$installed/venv/bin:$PATH setsid "$installed/venv/bin/hass" --skip-pip --config "$config" --log-file "$config/hass.log" \
    >"$config/hass.out" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$config/hass.pid"
for _ in $(seq 600); do
    if curl -sf -o /dev/null "http://127.0.0.1:$port/manifest.json"; then
        echo "Home Assistant is up, pid $pid"
        exit 0
    fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
echo "Home Assistant did not come up:" >&2
tail -n 30 "$config/hass.out" >&2
exit 1
