import Platform

/// Interfaces that Culvert cannot use, or only slowly: what their kind and their master mean for XDP and for the routes.
public enum LinkSupport {
    /// Why an interface that is there must not be attached; nil: it may.
    /// - Parameters:
    ///   - masterKind: as `ip -details link` shows it, such as `bridge`; nil without a master.
    public static func refusal(_ name: String, master: String?, masterKind: String?) -> String? {
        guard let master, let masterKind else { return nil }
        switch masterKind {
        case "bridge", "openvswitch", "ovs-system", "bond", "team":
            return
                "The interface \(name) is a port of the \(kind(masterKind)) \(master), which has its addresses and routes: "
                + "name \(master) in `interfaces` instead."
        case "vrf":
            return
                "The interface \(name) is in the VRF \(master), whose routes are in a table of their own that Culvert does not "
                + "follow: take it out (ip link set \(name) nomaster)."
        default: return nil
        }
    }

    private static func kind(_ masterKind: String) -> String {
        switch masterKind {
        case "bond", "team": "bond"
        default: "bridge"
        }
    }

    /// What is slow about an interface that works; nil: nothing is known.
    /// - Parameter kind: as `ip -details link` shows it; empty for hardware.
    public static func slowness(_ name: String, kind: String) -> String? {
        guard ["macvlan", "ipvlan", "vlan", "bridge", "team", "dummy"].contains(kind) else { return nil }
        return
            "The interface \(name) is a \(kind), which has no XDP of its own: every packet takes the kernel's slow way (generic "
            + "XDP). For speed give Culvert the interface below it."
    }
}

/// Routes of this machine that the workers do not obey, a sentence per kind. For `culvert doctor`; a gateway that runs logs them.
public enum RouteSupport {
    public static func unsupported() throws(SystemError) -> [String] {
        let netlink = try Netlink()
        var routes = RouteAlternatives()
        for family in AddressFamily.allCases {
            for route in try netlink.mainRoutes(family) { _ = routes.insert(route, .last) }
        }
        return routes.unsupported
    }
}
