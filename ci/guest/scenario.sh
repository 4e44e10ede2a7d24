# Runs inside the guest (busybox sh). The host gives PORTAL, IQNA, IQNB (CHAP volume), and the CHAP names and secrets.
# Every line `CHECK name ok` or `CHECK name FAILED why` is one result; `HOST word` asks the host to act and to answer nothing.
checks_failed=0
ok() { echo "CHECK $1 ok"; }
bad() { echo "CHECK $1 FAILED $2"; checks_failed=$((checks_failed + 1)); }
# check NAME COMMAND...: the command's exit code decides.
check() {
  name=$1
  shift
  if "$@" >/run/check.log 2>&1; then ok "$name"; else bad "$name" "exit $?: $(tail -n 3 /run/check.log | tr '\n' ' ')"; fi
}

set_key() { iscsiadm -m node -T "$1" -p "$PORTAL" -o update -n "$2" -v "$3"; }
login() { iscsiadm -m node -T "$1" -p "$PORTAL" --login; }
logout() { iscsiadm -m node -T "$1" -p "$PORTAL" --logout; }
# disk IQN: prints the block device once the session has made it.
disk() {
  for _ in $(seq 1 100); do
    for session in /sys/class/iscsi_session/session*; do
      [ "$(cat "$session/targetname" 2>/dev/null)" = "$1" ] || continue
      for block in "$session"/device/target*/*/block/*; do
        [ -e "$block" ] && { echo "/dev/${block##*/}"; return 0; }
      done
    done
    sleep 0.1
  done
  return 1
}
chap() {
  set_key "$1" node.session.auth.authmethod CHAP
  set_key "$1" node.session.auth.username "$CHAPUSER"
  set_key "$1" node.session.auth.password "$CHAPSECRET"
  set_key "$1" node.session.auth.username_in "$MUTUALUSER"
  set_key "$1" node.session.auth.password_in "$MUTUALSECRET"
}
digests() {
  set_key "$1" 'node.conn[0].iscsi.HeaderDigest' "$2"
  set_key "$1" 'node.conn[0].iscsi.DataDigest' "$2"
}

# A target that announces other addresses than the one we came to gets its node records made by hand.
records() {
  for iqn in "$IQNA" "$IQNB"; do
    iscsiadm -m node -T "$iqn" -p "$PORTAL" >/dev/null 2>&1 || iscsiadm -m node -o new -T "$iqn" -p "$PORTAL" || return 1
  done
}
discovery() { iscsiadm -m discovery -t sendtargets -p "$PORTAL" >/run/found && grep -q "$IQNA" /run/found && grep -q "$IQNB" /run/found; }
check "discovery names both targets" discovery
announced() { grep -q "^$PORTAL," /run/found; }
check "discovery announces the advertised address" announced
check "node records" records
for iqn in "$IQNA" "$IQNB"; do
  set_key "$iqn" node.session.timeo.replacement_timeout 120
done

wrong_secret() { chap "$IQNB" && set_key "$IQNB" node.session.auth.password wrongwrongwrong && ! login "$IQNB"; }
check "login with a wrong CHAP secret is refused" wrong_secret
no_secret() { set_key "$IQNB" node.session.auth.authmethod None && ! login "$IQNB"; }
check "login without CHAP is refused" no_secret

round_trip() {
  digests "$IQNB" "$1" && chap "$IQNB" && login "$IQNB" || return 1
  device=$(disk "$IQNB") || return 2
  dd if=/dev/urandom of=/run/pattern bs=1M count=4 2>/dev/null
  dd if=/run/pattern of="$device" bs=64k seek=16 oflag=direct 2>/dev/null || return 3
  dd if="$device" of=/run/back bs=64k skip=16 count=64 iflag=direct 2>/dev/null || return 4
  cmp /run/pattern /run/back || return 5
  logout "$IQNB"
}
check "mutual CHAP, digests None" round_trip None
check "mutual CHAP, digests CRC32C" round_trip CRC32C

file_system() {
  login "$2" || return 1
  device=$(disk "$2") || return 2
  case $1 in ext4) mkfs.ext4 -q -F "$device" || return 3 ;; xfs) mkfs.xfs -q -f "$device" || return 3 ;; esac
  mount -t "$1" "$device" /mnt || return 4
  for i in $(seq 1 20); do dd if=/dev/urandom of=/mnt/file$i bs=64k count=$i 2>/dev/null || return 5; done
  (cd /mnt && md5sum file*) >/run/sums
  umount /mnt && logout "$2" && login "$2" || return 6
  device=$(disk "$2") || return 7
  mount -t "$1" "$device" /mnt && (cd /mnt && md5sum -c /run/sums) || return 8
}
check "ext4: files keep their checksums over logout and login" file_system ext4 "$IQNA"
verify() { fio --name=v --directory=/mnt --size=24m --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --output=/run/fio.log; }
check "fio verify on ext4" verify
fill() { rm -f /mnt/v.* && dd if=/dev/urandom of=/mnt/big bs=1M count=96 2>/dev/null && sync; }
check "fill for fstrim" fill
echo "HOST used-before-trim"
sleep 8
trim() { rm /mnt/big && sync && fstrim -v /mnt; }
check "fstrim" trim
sync
echo "HOST used-after-trim"
sleep 4
umount /mnt
logout "$IQNA" >/dev/null 2>&1
check "xfs: files keep their checksums over logout and login" file_system xfs "$IQNB"
umount /mnt
logout "$IQNB" >/dev/null 2>&1

# The server is killed while files are written and synced; what was synced before and after must be there.
login "$IQNA" >/dev/null 2>&1
device=$(disk "$IQNA")
fresh_file_system() { [ -b "$device" ] && mkfs.ext4 -q -F "$device" && mount "$device" /mnt; }
check "ext4 for the kills" fresh_file_system
: >/run/synced
write_files() {
  for i in $(seq 1 400); do
    dd if=/dev/urandom of=/mnt/s$i bs=16k count=$((i % 7 + 1)) conv=fsync 2>/dev/null || return 1
    (cd /mnt && md5sum s$i) >>/run/synced
    [ -e /run/stop ] && return 0
  done
}
write_files &
writer=$!
for kill in 1 2 3; do
  sleep 2
  before=$(wc -l </run/synced)
  echo "HOST kill"
  for _ in $(seq 1 60); do
    sleep 1
    [ "$(wc -l </run/synced)" -gt $((before + 5)) ] && break
    kill -0 $writer 2>/dev/null || break
  done
  after=$(wc -l </run/synced)
  if [ "$after" -gt $((before + 5)) ] || ! kill -0 $writer 2>/dev/null; then ok "writes go on after kill -9 number $kill"; else bad "writes go on after kill -9 number $kill" "stuck at $after files"; fi
done
touch /run/stop
if wait $writer; then ok "no I/O error reached the writer"; else bad "no I/O error reached the writer" "$(dmesg | tail -n 3 | tr '\n' ' ')"; fi
check "unmount after the kills" umount /mnt
check "file system intact after the kills" e2fsck -f -n "$device"
check "mount after the kills" mount "$device" /mnt
synced_files() { (cd /mnt && md5sum -c /run/synced) >/run/check-all 2>&1; grep -v ': OK' /run/check-all; [ -s /run/synced ] && ! grep -qv ': OK' /run/check-all; }
check "every fsynced file is there" synced_files
umount /mnt
check "logout" logout "$IQNA"
[ "$checks_failed" = 0 ]
