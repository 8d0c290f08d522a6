//! HTTP/2 as RFC 9113 and RFC 7541 have it, frame by frame, between a client and a back end of which every byte is known.
//! docs/http.md lists these tests by section.
#![allow(missing_docs)]

mod exchanges;
mod flow;
mod frames;
mod headers;
mod hpack;
mod messages;
mod peer;
mod requests;
mod streams;
mod websockets;
