# What follows from settings of the machine that are not Trivet's. Returns the expectations that failed.
{ lib, evaluate }:
let
  balancer = extra: (evaluate.node "node1" extra).config.services.trivet.balancer.settings;
  listens = extra: (balancer extra).http.listen ++ (balancer extra).https.listen;
  expect = what: good: lib.optional (!good) "machines: ${what}";
in
expect "a balancer listens on IPv4 and IPv6" (
  listens { } == [
    "[::]:80"
    "[::]:443"
  ]
)
++ expect "a balancer of a machine without IPv6 listens on IPv4 alone" (
  listens { networking.enableIPv6 = false; } == [
    "0.0.0.0:80"
    "0.0.0.0:443"
  ]
)
