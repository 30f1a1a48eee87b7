//! OVF descriptors, as far as a machine needs them: which disks there are, how many processors, how much memory.
//!
//! An OVA is a tar archive of a descriptor and disk images. The descriptor is foreign XML of any origin; what is read
//! of it are a few elements and attributes, so this is a scanner of tags and no parser: it knows no entities, no
//! namespaces and no schema, takes nothing by reference, and its work is bounded by the text's length.

/// A descriptor of an honest appliance has some kilobytes.
pub const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appliance {
    /// Files of the archive, in the order of the disks.
    pub disks: Vec<String>,
    /// 0: not said.
    pub cpus: u16,
    /// 0: not said.
    pub memory_bytes: u64,
}

struct Tag<'a> {
    /// Without its namespace; `/Item` for an end.
    name: &'a str,
    attributes: &'a str,
    /// Up to the next tag.
    text: &'a str,
}

fn tags(mut rest: &str) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        loop {
            let (_, behind) = rest.split_once('<')?;
            if let Some(comment) = behind.strip_prefix("!--") {
                rest = comment.split_once("-->")?.1;
                continue;
            }
            let (tag, after) = behind.split_once('>')?;
            rest = after;
            let (end, tag) = tag.strip_prefix('/').map_or((false, tag), |tag| (true, tag));
            let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag.trim_end_matches('/'), ""));
            let name = name.rsplit_once(':').map_or(name, |(_, name)| name);
            if end {
                continue;
            }
            let text = after.split_once('<').map_or(after, |(text, _)| text);
            return Some(Tag { name, attributes, text: text.trim() });
        }
    })
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = attributes;
    loop {
        let (key, behind) = rest.split_once('=')?;
        let key = key.trim().rsplit_once(':').map_or(key.trim(), |(_, key)| key);
        let behind = behind.trim_start();
        let quote = behind.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, after) = behind[1..].split_once(quote)?;
        if key == name {
            return Some(value);
        }
        rest = after;
    }
}

const PROCESSORS: &str = "3";
const MEMORY: &str = "4";

/// Reads a descriptor; what it does not say stays empty.
pub fn read(text: &str) -> Appliance {
    let mut appliance = Appliance::default();
    let mut files: Vec<(&str, &str)> = Vec::new();
    let (mut kind, mut quantity, mut units) = ("", 0_u64, "");
    let take = |kind: &str, quantity: u64, units: &str, appliance: &mut Appliance| match kind {
        PROCESSORS => appliance.cpus = u16::try_from(quantity).unwrap_or(0),
        MEMORY => appliance.memory_bytes = quantity.saturating_mul(unit_bytes(units)),
        _ => {}
    };
    for tag in tags(text) {
        let value = |name| attribute(tag.attributes, name).unwrap_or_default();
        match tag.name {
            "File" => files.push((value("id"), value("href"))),
            "Disk" => {
                let wanted = value("fileRef");
                appliance.disks.extend(files.iter().find(|(id, _)| *id == wanted).map(|(_, href)| (*href).to_owned()));
            }
            "Item" => {
                take(kind, quantity, units, &mut appliance);
                (kind, quantity, units) = ("", 0, "");
            }
            "ResourceType" => kind = tag.text,
            "VirtualQuantity" => quantity = tag.text.parse().unwrap_or(0),
            "AllocationUnits" => units = tag.text,
            _ => {}
        }
    }
    take(kind, quantity, units, &mut appliance);
    appliance
}

/// `byte * 2^20`, `MegaBytes`, ...; megabytes where it is not said.
fn unit_bytes(units: &str) -> u64 {
    let power = units.rsplit_once("2^").and_then(|(_, power)| power.trim().parse::<u32>().ok());
    match (power, units.to_ascii_lowercase().as_str()) {
        (Some(power), _) if power < 50 => 1 << power,
        (None, "byte" | "bytes") => 1,
        (None, "kilobytes" | "kb") => 1 << 10,
        (None, "gigabytes" | "gb") => 1 << 30,
        _ => 1 << 20,
    }
}

/// A disk of an appliance that is written: its file in the archive and its size in the guest.
#[derive(Debug, Clone)]
pub struct Packed {
    pub file: String,
    pub file_bytes: u64,
    pub size_bytes: u64,
}

/// Writes a descriptor. `name` is a machine's: letters, digits, dots, dashes, underscores.
pub fn write(name: &str, cpus: u16, memory_bytes: u64, uefi: bool, disks: &[Packed]) -> String {
    let mut files = String::new();
    let mut described = String::new();
    let mut items = String::new();
    let mut item = |id: usize, kind: &str, text: &str, more: &str| {
        items.push_str(&format!(
            "      <Item><rasd:ElementName>{text}</rasd:ElementName><rasd:InstanceID>{id}</rasd:InstanceID>{more}\
             <rasd:ResourceType>{kind}</rasd:ResourceType></Item>\n"
        ));
    };
    item(1, PROCESSORS, "processors", &format!("<rasd:VirtualQuantity>{cpus}</rasd:VirtualQuantity>"));
    let memory = format!(
        "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>{}</rasd:VirtualQuantity>",
        memory_bytes >> 20
    );
    item(2, MEMORY, "memory", &memory);
    // 20: a SATA controller, which every importer knows.
    item(3, "20", "disks", "<rasd:Address>0</rasd:Address><rasd:ResourceSubType>AHCI</rasd:ResourceSubType>");
    for (index, disk) in disks.iter().enumerate() {
        files.push_str(&format!(
            "    <File ovf:href=\"{}\" ovf:id=\"file{index}\" ovf:size=\"{}\"/>\n",
            disk.file, disk.file_bytes
        ));
        described.push_str(&format!(
            "    <Disk ovf:capacity=\"{}\" ovf:diskId=\"disk{index}\" ovf:fileRef=\"file{index}\" \
             ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>\n",
            disk.size_bytes
        ));
        let place = format!(
            "<rasd:AddressOnParent>{index}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/disk{index}\
             </rasd:HostResource><rasd:Parent>3</rasd:Parent>"
        );
        item(4 + index, "17", &format!("disk{index}"), &place);
    }
    let firmware =
        if uefi { "\n      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>" } else { "" };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n\
         \x20 <References>\n{files}  </References>\n\
         \x20 <DiskSection>\n    <Info>Disks</Info>\n{described}  </DiskSection>\n\
         \x20 <VirtualSystem ovf:id=\"{name}\">\n    <Info>A virtual machine</Info>\n    <Name>{name}</Name>\n\
         \x20   <VirtualHardwareSection>\n      <Info>Hardware</Info>\n\
         \x20     <System><vssd:ElementName>Hardware</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>\
         <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>\n{items}{firmware}\
         \x20   </VirtualHardwareSection>\n  </VirtualSystem>\n</Envelope>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let disks =
            ["a.vmdk", "b.vmdk"].map(|file| Packed { file: file.to_owned(), file_bytes: 7, size_bytes: 1 << 20 });
        let text = write("web", 2, 512 << 20, true, &disks);
        let want = Appliance { disks: vec!["a.vmdk".into(), "b.vmdk".into()], cpus: 2, memory_bytes: 512 << 20 };
        assert_eq!(read(&text), want);
    }

    #[test]
    fn others_descriptors_are_read() {
        // As VirtualBox writes them: the disks in another order than the files, units by name.
        let text = r#"<?xml version="1.0"?>
<Envelope ovf:version="1.0"><References>
 <File ovf:id="file1" ovf:href='second.vmdk'/><File ovf:href="first.vmdk" ovf:id="file2" /></References>
 <!-- <Disk ovf:fileRef="file9"/> -->
 <DiskSection><Info>x</Info><Disk ovf:diskId="vmdisk2" ovf:fileRef="file2"/><Disk ovf:fileRef="file1"/></DiskSection>
 <Item><rasd:Caption>4 virtual CPU</rasd:Caption><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
 <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
 <rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
 <Item><rasd:ResourceType>10</rasd:ResourceType><rasd:VirtualQuantity>9</rasd:VirtualQuantity></Item></Envelope>"#;
        let want = Appliance { disks: vec!["first.vmdk".into(), "second.vmdk".into()], cpus: 4, memory_bytes: 2 << 30 };
        assert_eq!(read(text), want);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[<>/ a-zA-Z:=\"'!-]{0,200}") {
            read(&text);
        }
    }
}
