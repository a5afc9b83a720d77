use super::*;

#[test]
fn invitation_is_what_the_device_reads() {
    let md5 = hex::decode("48d16594cc8cbaa6f80582231ab0c6b5")
        .unwrap()
        .try_into()
        .unwrap();
    let invitation = Invitation {
        callback_port: 45678,
        len_bytes: 3000,
        md5,
    };
    assert_eq!(
        invitation.encode(),
        b"0 45678 3000 48d16594cc8cbaa6f80582231ab0c6b5\n"
    );
}
