import IPsec
import Testing

@testable import Dataplane

@Suite struct LimitTests {
    @Test func `what check accepts is what the workers have room for`() {
        #expect(GatewayLimits.workers <= UInt64.bitWidth, "a bit each in a worker's wake mask")
        #expect(Worker.childLimit == GatewayLimits.children && GatewayLimits.children.nonzeroBitCount == 1)
        #expect(TablesView.portLimit == GatewayLimits.interfaces && GatewayLimits.interfaces.nonzeroBitCount == 1)
        #expect(GatewayLimits.interfaces <= 255, "a port's number is an octet, and one number means none")
    }
}
