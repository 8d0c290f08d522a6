# What is wrong with a cluster, as a list of sentences: each names the node or the value, and what to do about it.
{
  lib,
  cfg,
  secretsAsPath, # whether secretsDirectory was written as a path and not as a string
}:
let
  inherit (cfg) cluster;
  nodes = lib.attrValues cluster.nodes;
  roles = import ./roles.nix;
  withRole = role: lib.filter (n: lib.elem role n.roles) nodes;
  count = role: lib.length (withRole role);
  problem = bad: message: lib.optional bad message;
  names = lib.concatMapStringsSep " and " (n: n.name);

  inherit (import ./ipv4.nix { inherit lib; })
    isAddress
    isNetwork
    network
    special
    ;
  isHostName = n: builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" n != null;
  isDomain = d: lib.stringLength d <= 253 && lib.all isHostName (lib.splitString "." d) && !isAddress d;
  isUuid = g: builtins.match "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}" g != null;
  # As the kernel has it, and without what keepalived or a shell would read as something else.
  isInterface = i: builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}" i != null;

  byAddress = lib.groupBy (n: n.address) nodes;
  duplicates = lib.filterAttrs (_: same: lib.length same > 1) byAddress;
  secrets = toString cfg.secretsDirectory;
  inStore = path: lib.hasPrefix "${builtins.storeDir}/" path;
  # Not through . and .., which would hide a path into the store.
  isPlainPath = path: builtins.match "(/[A-Za-z0-9_+@-][A-Za-z0-9._+@-]*)+" path != null;

  # Each network once, the larger before what lies in it.
  networks = map network (lib.filter isNetwork cluster.administrators);
  contains = large: small: large.first <= small.first && small.last <= large.last;
  overlaps = lib.concatLists (
    lib.imap0 (
      at: a: map (b: if contains a b then [ a b ] else [ b a ]) (lib.filter (b: contains a b || contains b a) (lib.drop (at + 1) networks))
    ) networks
  );
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
++ problem (cluster.groupName == "") (
  "the cluster has no name for its database group; put the output of `uuidgen` into services.trivet.cluster.groupName, and never change it"
)
++ problem (cluster.groupName != "" && !isUuid cluster.groupName) (
  "services.trivet.cluster.groupName is \"${cluster.groupName}\", which is not a UUID in small letters; `uuidgen` makes one, such as "
  + "\"6f0b1e6e-7d0a-4b7e-9f43-0a77a1ab0001\""
)

# Nodes
++ lib.concatMap (
  n:
  problem (!isHostName n.name) "node \"${n.name}\" is not a host name; use small letters, digits and hyphens"
  ++ problem (!isAddress n.address) "node ${n.name} has the address \"${n.address}\", which is not an IPv4 address"
  ++ problem (isAddress n.address && special n.address != null) (
    "node ${n.name} has the address ${n.address}, ${special n.address}; give it the one by which the other nodes reach it"
  )
  ++ problem (!isInterface n.interface) (
    "node ${n.name} has the interface \"${n.interface}\", which is no name of a network interface; "
    + "`ip -br link` on the node shows them, such as \"eth0\""
  )
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
  ++ problem (isAddress a && special a != null) "the virtual address ${a} is ${special a}; choose one that clients reach"
  ++ map (
    n: "the virtual address ${a} is node ${n.name}'s own address; choose a free one, since it must be able to move"
  ) (byAddress.${a} or [ ])
) cluster.virtualAddresses
++ problem (lib.unique cluster.virtualAddresses != cluster.virtualAddresses) "a virtual address stands twice in the list; name each once"
++ lib.concatMap (
  a: problem (!isNetwork a) "the administrators' address \"${a}\" is neither an IPv4 address nor a network such as 10.77.0.0/24"
) cluster.administrators
++ map (
  n: "the administrators' network ${n.given} has bits beyond its prefix; write ${n.text}, or ${n.one} for one machine"
) (
  map (
    a:
    network a
    // {
      given = a;
      one = "${lib.head (lib.splitString "/" a)}/32";
    }
  ) (lib.filter (a: isNetwork a && (network a).given != (network a).first) cluster.administrators)
)
++ map (
  pair:
  let
    large = (lib.elemAt pair 0).text;
    small = (lib.elemAt pair 1).text;
  in
  if large == small then
    "the administrators' network ${large} stands twice in the list; name it once"
  else
    "the administrators' network ${large} contains ${small}; name the larger alone"
) overlaps

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
++ problem (inStore secrets) (
  "services.trivet.secretsDirectory is in the store (${secrets}), where every user can read it; "
  + "use a folder on the node such as /var/lib/trivet/secrets and copy the secrets there"
)
++ problem (secretsAsPath && !inStore secrets) (
  "services.trivet.secretsDirectory is written as a path, which Nix would copy into the store for everyone to read; "
  + "write it as a string, such as \"/var/lib/trivet/secrets\""
)
++ problem (!lib.hasPrefix "/" secrets) (
  "services.trivet.secretsDirectory is \"${secrets}\", which is not an absolute path; use one such as /var/lib/trivet/secrets"
)
++ problem (lib.hasPrefix "/" secrets && !isPlainPath secrets) (
  "services.trivet.secretsDirectory is \"${secrets}\"; systemd reads spaces, colons and percent signs there as something else, so "
  + "use letters, digits, and . _ + @ - between single slashes (no . or .. by itself), such as /var/lib/trivet/secrets"
)
