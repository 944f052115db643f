import CLinux
import IPsec
import Platform
import Testing

@testable import Dataplane

@Suite struct RecordTests {
    @Test("hot records keep their size: two cache lines out, three in")
    func layouts() {
        #expect(MemoryLayout<OutboundSA>.size <= 128)
        #expect(MemoryLayout<OutboundSA>.offset(of: \.spiWire)! < 64)
        #expect(MemoryLayout<InboundSA>.size <= 192)
        #expect(MemoryLayout<InboundSA>.offset(of: \.bitmapWords)! < 64)
        #expect(MemoryLayout<FlowEntry>.stride <= 32)
        #expect(MemoryLayout<HopEntry>.stride <= 40)
        #expect(MemoryLayout<InboundTable.Slot>.stride == 16)
        #expect(MemoryLayout<WorkerCommand>.size == 32)
        #expect(MemoryLayout<WorkerAnswer>.size == 24)
        #expect(MemoryLayout<OuterIPv6>.size <= 128, "it lies behind the outbound record, in front of the inbound one")
    }

    @Test("rings go on when their indices wrap")
    func wrapping() {
        let storage = SPSC.Storage(slots: 8, slotBytes: 16)
        storage.ring.producer.pointee = .max - 2
        storage.ring.consumer.pointee = .max - 2
        var producer = ProducerRing(storage.ring)
        var consumer = ConsumerRing(storage.ring)
        var next: UInt64 = 0
        var expected: UInt64 = 0
        for round in 0..<50 {
            let room = producer.free(8)
            #expect(room == 8)
            for _ in 0..<UInt32(1 + round % 8) {
                producer.push(address: next, length: 1)
                next += 1
            }
            producer.submit()
            while case let ready = consumer.ready(3), ready > 0 {
                for ahead in 0..<ready {
                    #expect(consumer.descriptor(ahead: ahead).address == expected)
                    expected += 1
                }
                consumer.release(ready)
            }
        }
        #expect(next == expected)
    }

    @Test("a full ring takes nothing more, and never overwrites")
    func fullness() {
        let storage = SPSC.Storage(slots: 4, slotBytes: 16)
        var producer = SPSC.Producer(storage)
        for value in 0..<4 {
            producer.reserve()!.storeBytes(of: UInt64(value), as: UInt64.self)
            producer.commit()
        }
        producer.publish()
        let refused = producer.reserve()
        #expect(refused == nil)
        var consumer = SPSC.Consumer(storage)
        let oldest = consumer.next()?.load(as: UInt64.self)
        #expect(oldest == 0)
        consumer.release()
        let (one, keeping) = (producer.reserve(), producer.reserve(keeping: 1))
        #expect(one != nil && keeping == nil)
    }

    @Test("the SPI table finds what was put in and nothing that was taken out")
    func spiTable() {
        var table = InboundTable()
        defer { table.deallocate() }
        let records = UnsafeMutableRawPointer.allocate(byteCount: 256 * 2000, alignment: 64)
        records.initializeMemory(as: UInt8.self, repeating: 0, count: 256 * 2000)
        defer { records.deallocate() }
        var random = SystemRandomNumberGenerator()
        var present: [UInt32: UnsafeMutablePointer<InboundSA>] = [:]
        for index in 0..<20_000 {
            let sa = (records + 256 * (index % 2000)).assumingMemoryBound(to: InboundSA.self)
            // Few home slots, so that runs grow long and wrap around the end.
            let spi =
                UInt32.random(in: 1...8, using: &random) << 16
                | UInt32(InboundTable.slotCount - 4 + Int.random(in: 0...5, using: &random))
            if Bool.random(using: &random) {
                sa.pointee.spi = spi
                let inserted = table.insert(sa)
                #expect(inserted)
                present[spi] = sa
            } else {
                table.remove(spi)
                present[spi] = nil
            }
            #expect(table.count == present.count)
        }
        for spi in UInt32(1)...8 {
            for low in 0..<10 {
                let key = spi << 16 | UInt32(InboundTable.slotCount - 4 + low)
                #expect((table.find(key) != nil) == (present[key] != nil))
            }
        }
    }
}
