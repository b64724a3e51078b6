#!/bin/sh
# nvidia-smi --query-gpu of one card on one driver, both of the file $FAKE_SMI: a line "field=value" for each field
# that the driver knows, "!say TEXT" for what it says beside, "!exit CODE", "!hang".
for arg in "$@"; do
    case $arg in
    --query-gpu=*) fields=${arg#*=} ;;
    --id=*) id=${arg#*=} ;;
    --format=csv,noheader,nounits) format=right ;;
    *) echo "Invalid combination of input arguments." && exit 2 ;;
    esac
done
[ "$format" = right ] || exit 2
while read -r word rest; do
    case $word in
    "!say") echo "$rest" ;;
    "!exit") exit "$rest" ;;
    "!hang")
        sleep 60 &
        echo $$ $! > "$FAKE_SMI.pid"
        wait
        ;;
    esac
done < "$FAKE_SMI"
value() {
    sed -n "s/^$1=//p" "$FAKE_SMI"
}
if [ -n "$id" ] && [ "$(value pci.bus_id)" != "0000$id" ]; then
    echo "No devices were found"
    exit 6
fi
line=
for field in $(echo "$fields" | tr , ' '); do
    if ! grep -q "^$field=" "$FAKE_SMI"; then
        printf 'Field "%s" is not a valid field to query.\n\n' "$field"
        exit 2
    fi
    line="$line, $(value "$field")"
done
echo "${line#, }"
