# The virtual addresses: keepalived keeps them on a node whose balancer answers (VRRPv3, unicast). Reaction to
# * power loss of the holder: the adverts stop, 0.3 s at 0.1 s a piece;
# * death of its balancer: the balancer's unit says so in a tracked file, at once;
# * a balancer that hangs: it no longer answers the local check, 2 to 3 s;
# * a holder whose balancer has no web tier left, while another's has one: its priority falls below that one's, 4 to 5 s. Where
#   nobody has one the addresses stay, so that clients are told so, in the site's name and over TLS;
# * a holder that hears no other node, or is heard by none: its priority falls below everyone's, 4 to 5 s;
# * two holders that do not hear one another, while a third hears both: one of them lets go, 1 to 4 s;
# * an operator who drains the holder, or wants the addresses elsewhere: its priority falls below the others', 1 to 2 s, and it serves
#   until another one has them;
# * death of keepalived: its unit takes the addresses off the interface, and it starts again.
{
  config,
  lib,
  pkgs,
  trivet,
  ...
}:
let
  cfg = config.services.trivet;
  failover = cfg.failover;
  inherit (trivet) ports self;
  addresses = map (a: "${a}/32 dev ${self.interface}") cfg.cluster.virtualAddresses;
  # As with LVS' direct routing: every node has the addresses, and only the holder tells the network so.
  quietly = map (a: "${a}/32 dev lo scope host") cfg.cluster.virtualAddresses;
  ip = "${pkgs.iproute2}/bin/ip address";
  folder = "/run/trivet-failover";
  tracked = "${folder}/balancer";
  holds = "${folder}/holds";
  # In keepalived's terms zero is good and anything else a failure.
  report = name: value: pkgs.writeShellScript "trivet-balancer-${name}" "echo ${value} > ${tracked}\n";
  reportUp = report "up" "0";
  reportDown = report "down" "1";
  lines = indent: lib.concatMapStringsSep "\n" (line: indent + line);
  peers = trivet.others trivet.balancers;
  # Near the top: the lower the priority, the longer a node waits before it takes over. By steps, so that two backups do not
  # take over in the same instant. Who holds the addresses is above all who do not, so a node that returns takes nothing back
  # and causes no second outage; who has no web tier left is below all who have one, and who hears no other node is below
  # even them: what it lacks may be the network, and then no client reaches it. Among equals the order is as before.
  position = lib.lists.findFirstIndex (n: n.name == self.name) 0 trivet.balancers;
  count = lib.length trivet.balancers;
  step = lib.min 10 (253 / (10 * count - 1)); # all of it fits between 1 and 254
  holder = step * count;
  empty = -2 * holder; # more than the holder is above the last of the others
  alone = 2 * empty;
  unwanted = empty; # a balancer without a web tier is no better than one that is to rest
  priority = 254 - holder - step * position;
  note = pkgs.writeShellScript "trivet-holds" "echo \"$1\" > ${holds}\n";
  check = path: "${pkgs.curl}/bin/curl --silent --fail --output /dev/null --max-time 1 http://${trivet.local ports.localCheck}${path}";
  # What befalls all nodes, such as the end of the last web tier, each of them sees within a second or so of the others. Lest the
  # addresses move for that: the holder counts as well until it has been found wanting for a while, the others only once they
  # have been found well for as long.
  state = name: "${folder}/${name}";
  tries = 3;
  steadily =
    name: path:
    pkgs.writeShellScript "trivet-${name}" ''
      read -r held < ${holds}
      read -r bad good < ${state name}
      if ${check path}; then
        bad=0 good=$((good + 1))
      else
        bad=$((bad + 1)) good=0
      fi
      echo $bad $good > ${state name}
      if [ "$held" = 1 ]; then
        [ $bad -lt ${toString tries} ]
      else
        [ $good -ge ${toString tries} ]
      fi
    '';

  # Only that word makes it let go: a busy balancer that says nothing in time has not said it.
  unlessRefused =
    name: path:
    pkgs.writeShellScript "trivet-${name}" ''
      said=$(${pkgs.curl}/bin/curl --silent --output /dev/null --write-out '%{http_code}' --max-time 1 http://${trivet.local ports.localCheck}${path})
      [ "$said" != 409 ]
    '';

  # The same path for every configuration: the unit is reloaded, not restarted, when only that has changed.
  file = "keepalived/keepalived.conf";
  configuration = pkgs.writeText "keepalived.conf" ''
    global_defs {
      router_id ${self.name}
      vrrp_version 3
      enable_script_security
      # Adverts go out on time on a busy machine: no false takeover under six busy loops.
      vrrp_rt_priority 50
      # Neighbours learn the new place at once, and again in case the first word was lost.
      vrrp_garp_master_delay 1
      vrrp_garp_master_repeat 3
      vrrp_garp_master_refresh 10
      # Where two held them, the one that keeps them has the last word with the neighbours.
      vrrp_higher_prio_send_advert
    }

    track_file balancer {
      file "${tracked}"
      weight 0
    }

    track_file holds {
      file "${holds}"
      weight ${toString holder}
    }

    vrrp_script balancer_answers {
      script "${check "/healthz"}"
      interval ${toString failover.checkInterval}
      timeout 2
      rise 1
      fall 2
      user trivet-balancer trivet-balancer
    }

    vrrp_script has_backends {
      script "${steadily "has-backends" "/healthz/backends"}"
      interval ${toString failover.checkInterval}
      timeout 5 # a busy machine is not a deaf one
      rise 1
      fall 2
      weight ${toString empty}
      user trivet-balancer trivet-balancer
    }

    vrrp_script hears_others {
      script "${steadily "hears-others" "/healthz/others"}"
      interval ${toString failover.checkInterval}
      timeout 5 # a busy machine is not a deaf one
      rise 1
      fall 2
      weight ${toString alone}
      user trivet-balancer trivet-balancer
    }

    # Without a weight: a node that hears no adverts holds the addresses at any priority.
    vrrp_script one_holder {
      script "${unlessRefused "one-holder" "/healthz/holder"}"
      interval ${toString failover.checkInterval}
      timeout 5 # a busy machine is not a deaf one
      rise 1
      fall 1
      user trivet-balancer trivet-balancer
    }

    vrrp_script is_wanted {
      script "${unlessRefused "is-wanted" "/healthz/wanted"}"
      interval ${toString failover.checkInterval}
      timeout 5 # a busy machine is not a deaf one
      rise 1
      fall 1
      weight ${toString unwanted}
      user trivet-balancer trivet-balancer
    }

    vrrp_instance trivet {
      # No node is master by birth.
      state BACKUP
      interface ${self.interface}
      virtual_router_id ${toString cfg.cluster.virtualRouterId}
      priority ${toString priority}
      advert_int ${failover.advertInterval}
      unicast_src_ip ${self.address}
      unicast_peer {
    ${lines "    " (trivet.addresses peers)}
      }
      virtual_ipaddress {
    ${lines "    " addresses}
      }
      track_file {
        balancer
        holds
      }
      track_script {
        balancer_answers
        has_backends
        hears_others
        one_holder
        is_wanted
      }
      notify_master "${note} 1" root root
      notify_backup "${note} 0" root root
      notify_fault "${note} 0" root root
    }
    ${failover.extraConfig}
  '';
in
{
  options.services.trivet.failover = {
    advertInterval = lib.mkOption {
      type = lib.types.str;
      default = "0.1";
      description = ''
        Seconds between two adverts of the holder; takeover after power loss takes about three times as long. The same on
        all nodes.
      '';
    };
    extraConfig = lib.mkOption {
      type = lib.types.lines;
      default = "";
      description = "More of keepalived.conf.";
    };
    checkInterval = lib.mkOption {
      type = lib.types.ints.positive;
      default = 1;
      description = "Seconds between two checks of a balancer that runs but may hang; two failures in a row count.";
    };
  };

  config = lib.mkIf (cfg.enable && trivet.has "balancer") {
    # Until the balancer reports itself, it is down.
    systemd.tmpfiles.rules = [
      "d ${folder} 0755 root root - -"
      "f ${tracked} 0644 trivet-balancer trivet-balancer - 1"
    ]
    ++ map (name: "f ${state name} 0644 trivet-balancer trivet-balancer - 0 0") [
      "has-backends"
      "hears-others"
    ];
    systemd.services.trivet-balancer.serviceConfig = {
      ExecStartPost = [ reportUp ];
      # In order: the addresses move first, and the balancer answers what it still has.
      ExecStop = [ reportDown ];
      ExecStopPost = [ reportDown ];
      ReadWritePaths = [ folder ];
    };

    assertions = [
      {
        # VRRPv3 sends it as 12 bits of hundredths of a second.
        assertion = builtins.match "0\\.(0[1-9]|[1-9][0-9]?)|([1-9]|[1-3][0-9]|40)(\\.[0-9][0-9]?)?" failover.advertInterval != null;
        message =
          "trivet: services.trivet.failover.advertInterval is \"${failover.advertInterval}\"; write seconds from 0.01 to 40, with two "
          + "decimals at most and no unit, such as \"0.1\"";
      }
      {
        assertion = !config.services.keepalived.enable;
        message = "trivet: node ${self.name} runs keepalived for the virtual address; put what services.keepalived would do into services.trivet.failover.extraConfig";
      }
    ];

    environment.etc.${file}.source = configuration;
    environment.systemPackages = [ pkgs.keepalived ];

    # A connection does not move with its address. What it was asked before that, the balancer can answer only as long as the
    # kernel regards the address as the node's own.
    systemd.services.trivet-addresses = {
      description = "virtual addresses as the sources of answers that are still to be given when they have moved";
      wantedBy = [ "multi-user.target" ];
      before = [
        "keepalived.service"
        "trivet-balancer.service"
      ];
      serviceConfig = import ./sandbox.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = map (a: "${ip} replace ${a}") quietly;
        ExecStop = map (a: "-${ip} delete ${a}") quietly;
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
        PrivateUsers = false; # the capability is about the node's own network
        RestrictAddressFamilies = [ "AF_NETLINK" ];
      };
    };
    # Who asks for an address is answered by the interface that has it, so never for those on the loopback interface; and an
    # answer from there does not tell the neighbours that the address is here.
    boot.kernel.sysctl = {
      "net.ipv4.conf.all.arp_ignore" = 1;
      "net.ipv4.conf.all.arp_announce" = 2;
    };

    # Our own unit: the one of services.keepalived is unsandboxed, and waits 5 s after boot, lest a node take the addresses too
    # early. Ours waits for the balancer (the tracked file), and takes nothing back.
    systemd.services.keepalived = {
      description = "keepalived, which keeps the virtual addresses on a node whose balancer answers";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      startLimitIntervalSec = 0;
      # keepalived keeps its state over SIGHUP, and so the addresses: an instance of the same virtual_router_id, interface and
      # unicast_src_ip goes on as what it was, and a script that has not changed with its last result.
      reloadTriggers = [ configuration ];
      serviceConfig = import ./restart.nix { first = "500ms"; } // {
        Type = "simple";
        ExecStartPre = "${note} 0"; # it begins without the addresses
        ExecStart = "${pkgs.keepalived}/bin/keepalived --dont-fork --log-console --use-file=/etc/${file} --pid=/run/keepalived/keepalived.pid --vrrp_pid=/run/keepalived/vrrp.pid";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        # Killed outright, keepalived leaves the addresses where they are, and two nodes would have them.
        ExecStopPost = map (a: "-${ip} delete ${a}") addresses;
        KillMode = "mixed"; # the parent tells its child to hand the addresses over
        RuntimeDirectory = "keepalived";

        # Runs as root, with what it takes to move addresses and speak VRRP, and the check as another user.
        CapabilityBoundingSet = [
          "CAP_NET_ADMIN"
          "CAP_NET_BROADCAST"
          "CAP_NET_RAW"
          "CAP_SYS_NICE" # vrrp_rt_priority
          "CAP_SETUID"
          "CAP_SETGID"
          "CAP_KILL" # its own check scripts
          "CAP_DAC_READ_SEARCH" # the tracked file belongs to the balancer
        ];
        DevicePolicy = "closed";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectSystem = "strict";
        ReadWritePaths = [ folder ]; # whether it holds the addresses
        # Not ProtectKernelTunables: keepalived sets ARP behaviour below /proc/sys/net.
        # Not RestrictRealtime: vrrp_rt_priority.
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_PACKET" # gratuitous ARP
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
      };
    };
  };
}
