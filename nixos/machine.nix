# What of a machine's own configuration stands in the way of what runs on it as a node.
{
  config,
  lib,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  inherit (trivet) ports self has;
  inherit (trivet.ipv4) isAddress network;

  # Other web servers, and the ports that each listens on.
  listens = hosts: plain: tls: lib.concatMap (
    host:
    if host.listen or [ ] != [ ] then
      map (l: l.port) host.listen
    else
      [ plain ] ++ lib.optional ((host.addSSL or false) || (host.forceSSL or false) || (host.onlySSL or false)) tls
  ) (lib.attrValues hosts);
  inherit (config.services) nginx httpd caddy haproxy;
  others = {
    nginx = lib.optionals nginx.enable (
      listens nginx.virtualHosts (nginx.defaultHTTPListenPort or 80) (nginx.defaultSSLListenPort or 443)
    );
    httpd = lib.optionals httpd.enable (listens httpd.virtualHosts 80 443);
    caddy = lib.optionals caddy.enable [
      (caddy.httpPort or 80)
      (caddy.httpsPort or 443)
    ];
    haproxy = lib.optionals haproxy.enable (
      map (found: lib.toInt (lib.head found)) (
        lib.filter (found: found != null) (
          map (builtins.match "[[:space:]]*bind[[:space:]]+[^[:space:]]*:([0-9]{1,5})([[:space:]].*)?") (
            lib.splitString "\n" haproxy.config
          )
        )
      )
    );
  };
  ours = {
    ${toString ports.http} = lib.optional (has "balancer") "trivet-balancer";
    ${toString ports.https} = lib.optional (has "balancer") "trivet-balancer";
    ${toString ports.web} = lib.optional (has "app") "trivet-web";
    ${toString ports.app} = lib.optional (has "app" && cfg.app.command == null) "trivet-app";
  };
  clashes = lib.concatLists (
    lib.mapAttrsToList (
      other: wanted:
      lib.concatMap (
        port:
        map (mine: {
          inherit other port mine;
        }) ours.${toString port} or [ ]
      ) (lib.unique wanted)
    ) others
  );

  # What the configuration says of the node's interface. A machine that is told its addresses by others (DHCP), or whose
  # network is configured elsewhere, says nothing.
  declared = config.networking.interfaces;
  knows = declared != { } && !config.networking.useDHCP && !config.networking.useNetworkd;
  addresses = (declared.${self.interface} or { ipv4.addresses = [ ]; }).ipv4.addresses;
  networks = map (a: network "${a.address}/${toString a.prefixLength}") (lib.filter (a: isAddress a.address) addresses);
  within = n: (network self.address).given >= n.first && (network self.address).given <= n.last;
  ends = n: n.prefix < 31 && lib.elem (network self.address).given [ n.first n.last ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = map (c: {
      assertion = false;
      message =
        "trivet: node ${self.name} runs ${c.other} on port ${toString c.port}, which ${c.mine} needs; let ${c.other} listen on another port, "
        + "or run it on another machine";
    }) clashes;

    warnings =
      lib.optional (knows && self.interface != "lo" && !declared ? ${self.interface}) (
        "trivet: node ${self.name} has the interface ${self.interface} in services.trivet.cluster.nodes, but its networking knows only "
        + "${lib.concatStringsSep ", " (lib.attrNames declared)}; the virtual addresses would have no place"
      )
      ++ lib.optional (knows && isAddress self.address && networks != [ ] && !lib.any within networks) (
        "trivet: node ${self.name} has the address ${self.address} in services.trivet.cluster.nodes, which is in no network of its interface "
        + "${self.interface} (${lib.concatMapStringsSep ", " (n: n.text) networks})"
      )
      ++ lib.optional (knows && isAddress self.address && lib.any ends networks) (
        "trivet: node ${self.name} has the address ${self.address}, the first or last of its network, which is the network's own"
      );
  };
}
