//! The unit's Modbus TCP server: functions 3, 6 and 16, any unit id.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::fault::Fault;
use super::registers;
use super::unit::Unit;

const READ_HOLDING_REGISTERS: u8 = 3;
const WRITE_SINGLE_REGISTER: u8 = 6;
const WRITE_MULTIPLE_REGISTERS: u8 = 16;

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_DATA_ADDRESS: u8 = 2;
const ILLEGAL_DATA_VALUE: u8 = 3;

/// Most registers in one read and in one write (MODBUS Application Protocol V1.1b3, 6.3 and 6.12).
const READ_MAX: u16 = 125;
const WRITE_MAX: u16 = 123;
/// Longest PDU, bytes (same, 4.1).
const PDU_MAX_LEN: u16 = 253;

/// Answers requests until the client closes, or sends what is no Modbus.
pub(super) async fn serve(unit: &Unit, mut stream: TcpStream) {
    while let Ok(Some((transaction, unit_id, pdu))) = read_frame(&mut stream).await {
        unit.note_modbus_request();
        let reply = answer(unit, &pdu);
        if unit.takes_effect(&Fault::ModbusSilent) {
            continue;
        }
        let Ok(len) = u16::try_from(reply.len() + 1) else {
            return;
        };
        let frame = [&transaction[..], &[0, 0], &len.to_be_bytes(), &[unit_id], &reply].concat();
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Transaction id, unit id and PDU of the next frame; none when it is no Modbus frame.
async fn read_frame(stream: &mut TcpStream) -> io::Result<Option<([u8; 2], u8, Vec<u8>)>> {
    let mut header = [0; 7];
    stream.read_exact(&mut header).await?;
    let [transaction @ .., 0, 0, high, low, unit_id] = header else {
        return Ok(None);
    };
    let len = u16::from_be_bytes([high, low]);
    if !(2..=PDU_MAX_LEN + 1).contains(&len) {
        return Ok(None);
    }
    let mut pdu = vec![0; usize::from(len) - 1];
    stream.read_exact(&mut pdu).await?;
    Ok(Some((transaction, unit_id, pdu)))
}

/// The PDU that answers `pdu`.
fn answer(unit: &Unit, pdu: &[u8]) -> Vec<u8> {
    let [function, arguments @ ..] = pdu else {
        return Vec::new();
    };
    let answered = match *function {
        READ_HOLDING_REGISTERS => read(unit, arguments),
        WRITE_SINGLE_REGISTER => write_single(unit, arguments),
        WRITE_MULTIPLE_REGISTERS => write_multiple(unit, arguments),
        _ => Err(ILLEGAL_FUNCTION),
    };
    match answered {
        Ok(arguments) => [&[*function], &arguments[..]].concat(),
        Err(exception) => {
            unit.count(|counters| counters.exceptions += 1);
            vec![function | 0x80, exception]
        }
    }
}

fn read(unit: &Unit, arguments: &[u8]) -> Result<Vec<u8>, u8> {
    let [address_high, address_low, count_high, count_low] = *arguments else {
        return Err(ILLEGAL_DATA_VALUE);
    };
    let n_registers = u16::from_be_bytes([count_high, count_low]);
    if !(1..=READ_MAX).contains(&n_registers) {
        return Err(ILLEGAL_DATA_VALUE);
    }
    let first = register_number([address_high, address_low])?;
    let words = unit
        .read_registers(first, n_registers)
        .ok_or(ILLEGAL_DATA_ADDRESS)?;
    let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
    let len = u8::try_from(bytes.len()).map_err(|_| ILLEGAL_DATA_VALUE)?;
    Ok([&[len], &bytes[..]].concat())
}

fn write_single(unit: &Unit, arguments: &[u8]) -> Result<Vec<u8>, u8> {
    let [address_high, address_low, high, low] = *arguments else {
        return Err(ILLEGAL_DATA_VALUE);
    };
    write(
        unit,
        register_number([address_high, address_low])?,
        &[u16::from_be_bytes([high, low])],
    )?;
    Ok(arguments.to_vec())
}

fn write_multiple(unit: &Unit, arguments: &[u8]) -> Result<Vec<u8>, u8> {
    let [address_high, address_low, count_high, count_low, len, bytes @ ..] = arguments else {
        return Err(ILLEGAL_DATA_VALUE);
    };
    let n_registers = u16::from_be_bytes([*count_high, *count_low]);
    let is_whole = bytes.len() == usize::from(n_registers) * 2 && bytes.len() == usize::from(*len);
    if !(1..=WRITE_MAX).contains(&n_registers) || !is_whole {
        return Err(ILLEGAL_DATA_VALUE);
    }
    let words: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    write(unit, register_number([*address_high, *address_low])?, &words)?;
    Ok(arguments[..4].to_vec())
}

fn write(unit: &Unit, first: u16, words: &[u16]) -> Result<(), u8> {
    // Guess: on and off are the only values of register 1.
    if first == registers::POWER && words.first().is_some_and(|power| *power > 1) {
        return Err(ILLEGAL_DATA_VALUE);
    }
    if unit.write_registers(first, words) {
        Ok(())
    } else {
        Err(ILLEGAL_DATA_ADDRESS)
    }
}

/// Documented numbers count from 1, addresses in a PDU from 0.
fn register_number(address: [u8; 2]) -> Result<u16, u8> {
    u16::from_be_bytes(address)
        .checked_add(1)
        .ok_or(ILLEGAL_DATA_ADDRESS)
}
