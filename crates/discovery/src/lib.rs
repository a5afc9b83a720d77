//! WHERE: looks for devices by multicast DNS, by asking a whole network, and at an MQTT broker.
#![warn(missing_docs)]
