# What is wrong with services of other protocols, as a list of sentences: each names the service, and what to do about it.
{
  lib,
  cfg,
  listen,
  ports,
}:
let
  problem = lib.optional;
  addressProblems = import ./address-problems.nix { inherit lib; };
  isName = name: builtins.match "[A-Za-z0-9._-]+" name != null;
  # Those that anything of Trivet may have on a balancer, but for the site's own, which another configuration may have freed.
  taken = removeAttrs ports [ "http" "https" ];
  port = address: lib.last (lib.splitString ":" address);
  own = address: lib.attrNames (lib.filterAttrs (_: number: toString number == port address) taken);
  pools = s: lib.optional (s.pool != null) { what = "pool"; inherit (s) pool; } ++ lib.imap1 (number: sni: {
    what = "sni, entry ${toString number},";
    inherit (sni) pool;
  }) s.sni;
in
lib.concatLists (
  lib.mapAttrsToList (
    name: s:
    problem (!isName name) "the TCP service \"${name}\" has a name that logs and metrics cannot carry; use letters, digits, - _ and ."
    ++ problem (listen s == [ ]) "the TCP service ${name} listens nowhere; set services.trivet.tcp.${name}.port"
    ++ problem (s.pool == null && s.sni == [ ]) (
      "the TCP service ${name} has no back ends; name them in services.trivet.tcp.${name}.pool.backends, such as "
      + "{ ${name}1 = \"10.77.0.31:25\"; }"
    )
    ++ lib.concatMap (
      p: problem (p.pool.backends == [ ]) "the TCP service ${name} has no back ends in its ${p.what} of services.trivet.tcp.${name}; name them in backends"
    ) (pools s)
    ++ lib.concatMap (
      p:
      lib.concatMap (backend: addressProblems "the back end ${backend.name} of the TCP service ${name}" "25" backend) (
        lib.filter (b: builtins.isString (b.address or null) && b ? name) p.pool.backends
      )
    ) (pools s)
    ++ lib.concatMap (
      address:
      map (
        what: "the TCP service ${name} listens on port ${port address}, which is Trivet's own (${what}); choose another"
      ) (own address)
    ) (listen s)
    ++ lib.concatMap (
      address:
      problem (builtins.match ".*:[0-9]+" address == null) (
        "the TCP service ${name} listens on \"${address}\", which is no address with a port; write for example \"10.77.0.50:25\""
      )
    ) s.listen
  ) cfg.tcp
)
