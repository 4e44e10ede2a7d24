# Runs inside the guest (busybox sh): a file system over dm-multipath, while the host loses the primary again and again.
# The host gives PORTAL and IQN. `CHECK name ok` or `CHECK name FAILED why` is one result; `READY` says that the work goes on,
# `GAP ms` that no synced write ended for so long; the host ends the work by a line on the console.
checks_failed=0
ok() { echo "CHECK $1 ok"; }
bad() { echo "CHECK $1 FAILED $2"; checks_failed=$((checks_failed + 1)); }
check() {
  name=$1
  shift
  if "$@" >/run/check.log 2>&1; then ok "$name"; else bad "$name" "exit $?: $(tail -n 5 /run/check.log | tr '\n' ' ')"; fi
}

cat > /etc/multipath.conf <<'C'
defaults {
  find_multipaths no
  user_friendly_names yes
  polling_interval 1
  max_polling_interval 2
  path_grouping_policy group_by_prio
  prio alua
  path_checker tur
  failback immediate
  no_path_retry queue
}
C
/lib/systemd/systemd-udevd --daemon --resolve-names=early
udevadm trigger --action=add
udevadm settle --timeout=20
for m in dm_mod dm_multipath dm_service_time scsi_dh_alua; do modprobe $m || echo "no module $m"; done
multipathd -d -s >/run/multipathd.log 2>&1 &

paths() { dmsetup table --target multipath 2>/dev/null | grep -oE ' [0-9]+:[0-9]+ ' | wc -l; }
discovery() { iscsiadm -m discovery -t sendtargets -p "$PORTAL" && [ "$(iscsiadm -m node | grep -c "$IQN")" = 3 ]; }
check "discovery gives a path for each copy" discovery
for setting in node.session.timeo.replacement_timeout=3 'node.conn[0].timeo.noop_out_interval=1' 'node.conn[0].timeo.noop_out_timeout=1'; do
  iscsiadm -m node -T "$IQN" -o update -n "${setting%=*}" -v "${setting#*=}"
done
check "login on all paths" iscsiadm -m node -T "$IQN" --login
for _ in $(seq 1 100); do
  [ "$(paths)" = 3 ] && break
  sleep 0.3
done
three_paths() { multipath -ll; tail -n 3 /run/multipathd.log; [ "$(paths)" = 3 ]; }
check "one device with three paths" three_paths
device=/dev/mapper/$(dmsetup ls --target multipath | awk '{print $1; exit}')
file_system() { mkfs.ext4 -q -F "$device" && mount "$device" /mnt; }
check "ext4 on it" file_system

verify() {
  while [ ! -e /run/stop ]; do
    fio --name=v --directory=/mnt --size=8m --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --output=/run/fio.log || return 1
    echo pass >>/run/passes
  done
}
now() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}0"; }
pulse() {
  last=$(now)
  while [ ! -e /run/stop ]; do
    dd if=/proc/uptime of=/mnt/pulse bs=512 count=1 conv=notrunc,fsync 2>/dev/null || return 1
    time=$(now)
    [ $((time - last)) -gt 400 ] && echo "GAP $((time - last))"
    last=$time
  done
}
: >/run/passes
verify &
verifier=$!
pulse &
pulser=$!
echo READY
read -r _
touch /run/stop
wait $pulser && ok "every write ended well" || bad "every write ended well" "$(dmesg | tail -n 3 | tr '\n' ' ')"
wait $verifier && ok "fio read back what it wrote, $(wc -l </run/passes) passes" || bad "fio verify" "$(tail -n 3 /run/fio.log | tr '\n' ' ')"
# Errors of single paths are what multipath is for; those of the device are not.
no_errors() { ! dmesg | grep -E 'I/O error.*dm-|EXT4-fs error|Aborting journal|Buffer I/O error.*dm-'; }
check "no I/O error reached the file system" no_errors
check "unmount" umount /mnt
check "file system intact" e2fsck -f -n "$device"
check "logout" iscsiadm -m node -T "$IQN" --logout
[ "$checks_failed" = 0 ]
