//! The balancer: HTTP in front of the web tiers ([`proxy`]), other protocols in front of whatever speaks them ([`tcp`]), and the
//! database gateway in front of the members ([`gateway`]). [`run`] puts together what a configuration asks for.

mod admin;
pub mod config;
mod error_pages;
mod explain;
pub mod gateway;
mod local_check;
mod maintenance;
mod one_holder;
pub mod proxy;
mod resolver;
pub mod routes;
pub mod run;
mod status;
pub mod tcp;
