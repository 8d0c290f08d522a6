# What is wrong with a cluster, as a list of sentences: each names the node or the value, and what to do about it.
{ lib, cfg }:
let
  inherit (cfg) cluster;
  nodes = lib.attrValues cluster.nodes;
  roles = import ./roles.nix;
  withRole = role: lib.filter (n: lib.elem role n.roles) nodes;
  count = role: lib.length (withRole role);
  problem = bad: message: lib.optional bad message;
  names = lib.concatMapStringsSep " and " (n: n.name);

  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  ipv4 = "${octet}(\\.${octet}){3}";
  isAddress = a: builtins.match ipv4 a != null;
  isNetwork = a: builtins.match "${ipv4}(/(3[0-2]|[12]?[0-9]))?" a != null;
  isHostName = n: builtins.match "[a-z0-9]([a-z0-9-]*[a-z0-9])?" n != null;
  isDomain = d: lib.all isHostName (lib.splitString "." d);

  byAddress = lib.groupBy (n: n.address) nodes;
  duplicates = lib.filterAttrs (_: same: lib.length same > 1) byAddress;
  inStore = path: lib.hasPrefix "${builtins.storeDir}/" (toString path);
in
# The machine and its cluster
problem (!cluster.nodes ? ${cfg.node}) (
  "this machine is \"${cfg.node}\", but the cluster has only ${lib.concatStringsSep ", " (lib.attrNames cluster.nodes)}; "
  + "set services.trivet.node or networking.hostName to one of them, or add \"${cfg.node}\" to services.trivet.cluster.nodes"
)
++ problem (nodes == [ ]) "the cluster has no nodes; name them in services.trivet.cluster.nodes"
++ problem (!isDomain cluster.domain) (
  "the domain \"${cluster.domain}\" is not a host name; write it as in the address bar, in small letters, such as \"www.foobar.com\""
)

# Nodes
++ lib.concatMap (
  n:
  problem (!isHostName n.name) "node \"${n.name}\" is not a host name; use small letters, digits and hyphens"
  ++ problem (!isAddress n.address) "node ${n.name} has the address \"${n.address}\", which is not an IPv4 address"
  ++ problem (n.roles == [ ]) "node ${n.name} has no role; give it at least one of ${lib.concatStringsSep ", " roles}"
  ++ map (role: "node ${n.name} has the unknown role \"${role}\"; the roles are ${lib.concatStringsSep ", " roles}") (
    lib.subtractLists roles n.roles
  )
) nodes
++ lib.mapAttrsToList (
  address: same: "${names same} have the same address ${address}; give each node its own"
) duplicates

# Virtual addresses
++ problem (cluster.virtualAddresses == [ ]) (
  "the cluster has no virtual address; set services.trivet.cluster.virtualAddresses to the address the domain points to"
)
++ lib.concatMap (
  a:
  problem (!isAddress a) "the virtual address \"${a}\" is not an IPv4 address (write it without a prefix length)"
  ++ map (
    n: "the virtual address ${a} is node ${n.name}'s own address; choose a free one, since it must be able to move"
  ) (byAddress.${a} or [ ])
) cluster.virtualAddresses
++ problem (lib.unique cluster.virtualAddresses != cluster.virtualAddresses) "a virtual address stands twice in the list; name each once"
++ lib.concatMap (
  a: problem (!isNetwork a) "the administrators' address \"${a}\" is neither an IPv4 address nor a network such as 10.77.0.0/24"
) cluster.administrators

# Roles
++ problem (count "balancer" == 0) "no node has the role balancer, so nobody would hold the virtual address; give it to at least two nodes"
++ problem (count "balancer" > 15) "${toString (count "balancer")} nodes have the role balancer; 15 is the most that get distinct priorities near the top"
++ problem (count "app" == 0) "no node has the role app, so nothing would serve the site; give it to at least two nodes"
++ problem (count "database" == 0) "no node has the role database, so there would be nothing to read or write; give it to three nodes"
++ problem (count "database" == 2) (
  "2 nodes have the role database (${names (withRole "database")}); two survive the failure of none, so give the role to one more node"
)
++ problem (count "database" > 9) "${toString (count "database")} nodes have the role database; MySQL Group Replication takes nine at most"

# Secrets
++ problem (inStore cfg.secretsDirectory) (
  "services.trivet.secretsDirectory is in the store (${toString cfg.secretsDirectory}), where every user can read it; "
  + "use a folder on the node such as /var/lib/trivet/secrets and copy the secrets there"
)
++ problem (!lib.hasPrefix "/" (toString cfg.secretsDirectory)) (
  "services.trivet.secretsDirectory is \"${toString cfg.secretsDirectory}\", which is not an absolute path; use one such as /var/lib/trivet/secrets"
)
