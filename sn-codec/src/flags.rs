//! The bits of the Flags octet (§5.3.4).

pub(crate) const DUP: u8 = 0x80;
pub(crate) const QOS: u8 = 0x60;
pub(crate) const QOS_0: u8 = 0x00;
pub(crate) const QOS_1: u8 = 0x20;
pub(crate) const QOS_2: u8 = 0x40;
pub(crate) const QOS_MINUS_1: u8 = 0x60;
pub(crate) const RETAIN: u8 = 0x10;
pub(crate) const WILL: u8 = 0x08;
pub(crate) const CLEAN_SESSION: u8 = 0x04;
pub(crate) const TOPIC_ID_TYPE: u8 = 0x03;
pub(crate) const NORMAL: u8 = 0x00;
pub(crate) const PREDEFINED: u8 = 0x01;
pub(crate) const SHORT: u8 = 0x02;
