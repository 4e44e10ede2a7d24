#!/bin/sh
# Builds a small Linux guest with open-iscsi: Debian's kernel and tools in an initramfs, for software emulation.
# usage: image.sh WORKDIR SCENARIO [multipath]     leaves WORKDIR/vmlinuz and WORKDIR/initrd.gz; the guest runs SCENARIO as /scenario and powers off.
# needs (Debian): busybox-static cpio kmod open-iscsi e2fsprogs xfsprogs sg3-utils fio; with multipath also multipath-tools dmsetup udev
set -eu
work=$1 scenario=$(realpath "$2") multipath=${3:-}
mkdir -p "$work"
cd "$work"
if [ ! -d kernel ]; then
  find_package() { apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image/{print $2; exit}'; }
  package=$(find_package)
  if [ -z "$package" ]; then
    apt-get update -qq
    package=$(find_package)
  fi
  apt-get download -qq "$package"
  rm -rf kernel.part
  dpkg -x "$package"_*.deb kernel.part
  rm -f "$package"_*.deb
  mv kernel.part kernel
fi
cp kernel/boot/vmlinuz-* vmlinuz
version=$(ls kernel/lib/modules)
modules=root/lib/modules/$version
rm -rf root
extra_modules= extra_tools=
if [ "$multipath" = multipath ]; then
  extra_modules="drivers/md/dm-mod.ko drivers/md/dm-multipath.ko drivers/md/dm-service-time.ko drivers/md/dm-round-robin.ko drivers/scsi/device_handler/scsi_dh_alua.ko drivers/dax"
  extra_tools="multipathd multipath dmsetup udevadm /lib/systemd/systemd-udevd /lib/udev/scsi_id"
fi
for d in bin sbin proc sys dev etc/iscsi run tmp usr/bin usr/sbin var/lib/iscsi mnt "lib/modules/$version"; do mkdir -p "root/$d"; done
cp /bin/busybox root/bin/
for applet in sh mount umount ip modprobe ls cat echo sleep dmesg poweroff dd sync mkdir md5sum grep awk sed ln wc head tail kill ps cmp df touch rm find sort od seq cut tr date stat; do
  ln -sf busybox "root/bin/$applet"
done
cp kernel/lib/modules/"$version"/modules.* "$modules"/
for m in drivers/virtio drivers/net/virtio_net.ko drivers/net/net_failover.ko net/core/failover.ko drivers/scsi/iscsi_tcp.ko drivers/scsi/libiscsi.ko \
  drivers/scsi/libiscsi_tcp.ko drivers/scsi/scsi_transport_iscsi.ko drivers/scsi/sd_mod.ko drivers/scsi/sg.ko drivers/scsi/scsi_mod.ko \
  drivers/scsi/scsi_common.ko fs/ext4 fs/jbd2 fs/mbcache.ko fs/xfs lib crypto arch/x86/crypto block $extra_modules; do
  [ -e "kernel/lib/modules/$version/kernel/$m" ] || continue
  mkdir -p "$modules/kernel/$(dirname "$m")"
  cp -r "kernel/lib/modules/$version/kernel/$m" "$modules/kernel/$(dirname "$m")/"
done
depmod -b root "$version"
if [ "$multipath" = multipath ]; then
  mkdir -p root/lib/multipath root/lib/udev/rules.d root/etc/multipath
  cp /lib/multipath/*.so root/lib/multipath/
  extra_tools="$extra_tools $(ls /lib/multipath/*.so)"
  for rule in 50-udev-default 55-dm 55-scsi-sg3_id 56-dm-mpath 60-block 60-multipath 60-persistent-storage 60-persistent-storage-dm 95-dm-notify; do
    cp "/lib/udev/rules.d/$rule.rules" root/lib/udev/rules.d/
  done
  cp /etc/group root/etc/
fi
for tool in iscsid iscsiadm mkfs.ext4 e2fsck mkfs.xfs xfs_repair blkid fstrim fio sg_inq sg_vpd sg_persist $extra_tools; do
  path=$(command -v "$tool") || { [ -e "$tool" ] && path=$tool; } || { echo "missing tool: $tool" >&2; exit 1; }
  mkdir -p "root/$(dirname "$path")"
  cp -L "$path" "root/$path"
  for library in $(ldd "$path" | grep -oE '/[^ ]+\.so[^ ]*'); do
    mkdir -p "root/$(dirname "$library")"
    cp -Lu "$library" "root/$library"
  done
done
cp /etc/iscsi/iscsid.conf root/etc/iscsi/
echo InitiatorName=iqn.2026-11.io.holdfast.guest:host1 > root/etc/iscsi/initiatorname.iscsi
echo root:x:0:0:root:/:/bin/sh > root/etc/passwd
echo 127.0.0.1 localhost > root/etc/hosts
cp "$scenario" root/scenario
cat > root/init <<'I'
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mkdir -p /run/lock/iscsi
# iscsi_tcp refuses connections without crc32c_generic; crc32c_intel does not load under emulation.
for m in virtio_pci virtio_net crc32c_generic iscsi_tcp sd_mod sg ext4 xfs; do modprobe $m || echo "no module $m"; done
ip link set lo up
ip link set eth0 up
for word in $(cat /proc/cmdline); do
  case $word in holdfast.*=*)
    pair=${word#holdfast.}
    export "$(echo "${pair%%=*}" | tr a-z A-Z)=${pair#*=}" ;;
  esac
done
ip addr add "${ADDRESS:-10.0.2.15/24}" dev eth0
[ -n "${ADDRESS:-}" ] || ip route add default via 10.0.2.2
iscsid -f >/run/iscsid.log 2>&1 &
sleep 1
sh /scenario
echo "GUEST EXIT $?"
poweroff -f
I
chmod +x root/init
(cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1) > initrd.gz
