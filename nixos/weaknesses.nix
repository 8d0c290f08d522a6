# What works in a cluster and will not survive something that its operator may think it does, as sentences for warnings.
{ lib, cfg }:
let
  inherit (cfg) cluster;
  nodes = lib.attrValues cluster.nodes;
  withRole = role: lib.filter (n: lib.elem role n.roles) nodes;
  warning = weak: message: lib.optional weak message;
  alone =
    role: consequence:
    let
      found = withRole role;
    in
    warning (lib.length found == 1) "only node ${(lib.head found).name} has the role ${role}; ${consequence}";
in
warning (cluster.administrators == [ ]) (
  "the cluster has no administrators, so the firewall closes SSH and the dashboards to everyone; "
  + "name your addresses in services.trivet.cluster.administrators"
)
++ (
  if lib.length nodes == 1 then
    [ "the cluster has one node; nothing of it survives the loss of that machine. Three nodes survive the loss of any one" ]
  else
    alone "balancer" "without it nobody reaches the site. Give the role to a second node"
    ++ alone "app" "without it the site has nothing to serve. Give the role to a second node"
    ++ alone "database" "without it nothing is read or written, and what its disk holds is nowhere else. Give the role to three nodes"
)
++ lib.concatMap (
  n: map (role: "node ${n.name} has the role ${role} twice; once is enough") (
    lib.unique (lib.filter (role: lib.count (r: r == role) n.roles > 1) n.roles)
  )
) nodes
