"""A sender that behaves as `espota.py` does, for comparison: MD5 authentication, 1,024 bytes at a time.

Written from ../shared/PROTOCOLS.md sections B1 and B2, not from the script.
Prints one JSON object: whether the device said OK, and the seconds from the first invitation to that.

    OTA_PASSWORD=… python3 espota_baseline.py ADDRESS OTA_PORT IMAGE
"""

import hashlib
import json
import os
import random
import socket
import sys
import time

CHUNK = 1024
TIMEOUT_S = 10
N_INVITATIONS = 10


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def invite(udp, device, invitation):
    """The device's answer; a silent one is invited again."""
    for _ in range(N_INVITATIONS):
        udp.sendto(invitation, device)
        try:
            return udp.recv(37).decode()
        except socket.timeout:
            pass
    sys.exit("no answer from the device")


def authenticate(udp, device, nonce, salt):
    password = md5(os.environ["OTA_PASSWORD"])
    cnonce = md5(salt)
    response = md5(f"{password}:{nonce}:{cnonce}")
    udp.sendto(f"200 {cnonce} {response}\n".encode(), device)
    return udp.recv(32).decode()


def listen(listener):
    """Listens on a random port, as the script does; unlike it, takes another one when that is in use.

    On one machine the simulated devices' closed connections hold many ports, which they would not on a real network.
    """
    while True:
        port = random.randint(10000, 60000)
        try:
            listener.bind(("0.0.0.0", port))
        except OSError:
            continue
        listener.listen(1)
        return port


def main():
    device = (sys.argv[1], int(sys.argv[2]))
    with open(sys.argv[3], "rb") as file:
        image = file.read()
    digest = hashlib.md5(image).hexdigest()

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    port = listen(listener)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(TIMEOUT_S)

    begun = time.monotonic()
    answer = invite(udp, device, f"0 {port} {len(image)} {digest}\n".encode())
    if answer.startswith("AUTH "):
        answer = authenticate(udp, device, answer[5:], f"{sys.argv[3]}{len(image)}{digest}{device[0]}")
    if answer != "OK":
        sys.exit(f"not let in: {answer}")

    listener.settimeout(TIMEOUT_S)
    connection, _ = listener.accept()
    connection.settimeout(TIMEOUT_S)
    said = ""
    for start in range(0, len(image), CHUNK):
        connection.sendall(image[start : start + CHUNK])
        said = connection.recv(10).decode()
    while "OK" not in said:
        more = connection.recv(32).decode()
        if not more:
            break
        said += more
    ok = said.endswith("OK")
    print(json.dumps({"ok": ok, "transfer_s": round(time.monotonic() - begun, 4)}))
    return 0 if ok else 1


sys.exit(main())
