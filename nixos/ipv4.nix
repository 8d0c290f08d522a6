# IPv4 addresses and networks as text, and what they mean. An address is a number here: 10.0.0.1 is 167772161.
{ lib }:
let
  octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  address = "${octet}(\\.${octet}){3}";
  pow2 = n: if n == 0 then 1 else 2 * pow2 (n - 1);
  size = prefix: pow2 (32 - prefix); # of a network
  first = number: prefix: number - lib.mod number (size prefix);
in
rec {
  isAddress = a: builtins.match address a != null;
  isNetwork = a: builtins.match "${address}(/(3[0-2]|[12]?[0-9]))?" a != null;

  number = a: lib.foldl' (sum: part: sum * 256 + lib.toInt part) 0 (lib.splitString "." a);
  text =
    n:
    lib.concatMapStringsSep "." (power: toString (lib.mod (n / power) 256)) [
      16777216
      65536
      256
      1
    ];

  # "10.0.0.5/8" → where it begins and ends, and how it is written.
  network =
    a:
    let
      parts = lib.splitString "/" a;
      prefix = if lib.length parts == 1 then 32 else lib.toInt (lib.elemAt parts 1);
      given = number (lib.head parts);
      begin = first given prefix;
    in
    {
      inherit given prefix;
      first = begin;
      last = begin + size prefix - 1;
      text = if lib.length parts == 1 then a else "${text begin}/${toString prefix}";
    };

  # What no machine can have as its own; null for an ordinary address.
  special =
    a:
    let
      within = block: number a >= (network block).first && number a <= (network block).last;
      kinds = {
        "0.0.0.0/8" = "no address of a machine";
        "127.0.0.0/8" = "a loopback address, which every machine has for itself";
        "169.254.0.0/16" = "a link-local address, which machines give to themselves";
        "224.0.0.0/4" = "a multicast address";
        "240.0.0.0/4" = "a reserved or broadcast address";
      };
      found = lib.filter within (lib.attrNames kinds);
    in
    if found == [ ] then null else kinds.${lib.head found};
}
