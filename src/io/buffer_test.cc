#include "io/buffer.h"

#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <string>

namespace postern::io {
namespace {

void put(Buffer& buffer, std::string_view bytes, std::size_t limit) {
  const auto room = buffer.room(limit);
  ASSERT_GE(room.size(), bytes.size());
  std::memcpy(room.data(), bytes.data(), bytes.size());
  buffer.filled(bytes.size());
}

TEST(Buffer, HoldsNothingUntilThereIsSomething) {
  BufferPool pool;
  Buffer buffer(pool);
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.bytes(), "");
  buffer.release();
  buffer.release_if_empty();
}

TEST(Buffer, IsFilledAtTheBackAndConsumedAtTheFront) {
  BufferPool pool;
  Buffer buffer(pool);
  put(buffer, "hello ", KiB);
  put(buffer, "world", KiB);
  EXPECT_EQ(buffer.bytes(), "hello world");
  buffer.consume(6);
  EXPECT_EQ(buffer.bytes(), "world");
  put(buffer, "!", KiB);
  EXPECT_EQ(buffer.bytes(), "world!");
  buffer.consume(6);
  EXPECT_TRUE(buffer.empty());
}

TEST(Buffer, GrowsToItsLimitAndNotBeyond) {
  BufferPool pool;
  Buffer buffer(pool);
  constexpr std::size_t limit = 100 * KiB;
  std::string all;
  while (true) {
    const auto room = buffer.room(limit);
    if (room.empty()) break;
    const std::string piece(std::min<std::size_t>(room.size(), 1000),
                            static_cast<char>('a' + all.size() % 26));
    std::memcpy(room.data(), piece.data(), piece.size());
    buffer.filled(piece.size());
    all += piece;
  }
  EXPECT_EQ(all.size(), limit);
  EXPECT_EQ(buffer.bytes(), all);
  buffer.consume(1);
  EXPECT_EQ(buffer.room(limit).size(), 1u) << "what was consumed can be filled again";
}

TEST(Buffer, ReservesAndAppendsWithoutLosingWhatItHolds) {
  BufferPool pool;
  Buffer buffer(pool);
  buffer.append("start");
  buffer.reserve(200 * KiB);
  EXPECT_EQ(buffer.bytes(), "start");
  EXPECT_GE(buffer.room(200 * KiB).size(), 200 * KiB - 5);
  buffer.append(std::string(300 * KiB, 'x'));
  EXPECT_EQ(buffer.size(), 300 * KiB + 5);
  EXPECT_EQ(buffer.bytes().substr(0, 6), "startx");
}

TEST(Buffer, MovesItsBytes) {
  BufferPool pool;
  Buffer buffer(pool);
  buffer.append("bytes");
  Buffer other(std::move(buffer));
  EXPECT_EQ(other.bytes(), "bytes");
  EXPECT_TRUE(buffer.empty());  // NOLINT(bugprone-use-after-move): empty is what it promises.
}

TEST(Buffer, AgreesWithAStringWhateverIsDoneToIt) {
  BufferPool pool;
  Buffer buffer(pool);
  std::string model;
  std::mt19937 random(3);
  for (int step = 0; step < 20'000; ++step) {
    switch (random() % 5) {
      case 0:
      case 1: {
        const std::string piece(random() % 3000, static_cast<char>(random()));
        const auto room = buffer.room(64 * KiB);
        ASSERT_EQ(room.empty(), model.size() >= 64 * KiB);
        const std::size_t count = std::min(piece.size(), room.size());
        std::memcpy(room.data(), piece.data(), count);
        buffer.filled(count);
        model.append(piece, 0, count);
        break;
      }
      case 2: {
        const std::size_t count = model.empty() ? 0 : random() % (model.size() + 1);
        buffer.consume(count);
        model.erase(0, count);
        break;
      }
      case 3: {
        const std::string piece(random() % 50, static_cast<char>(random()));
        if (model.size() + piece.size() > 64 * KiB) break;
        buffer.append(piece);
        model += piece;
        break;
      }
      default:
        buffer.release_if_empty();
        if (random() % 50 == 0) {
          buffer.release();
          model.clear();
        }
    }
    ASSERT_EQ(buffer.bytes(), model);
  }
}

TEST(BufferPool, ABlockThatWasGivenBackIsGivenOutAgain) {
  BufferPool pool;
  for (const std::size_t size : {BufferPool::block_bytes, BufferPool::large_bytes}) {
    char* block = pool.take(size);
    pool.give_back(block, size);
    EXPECT_EQ(pool.take(size), block);
    pool.give_back(block, size);
  }
}

TEST(BufferPool, KeepsNoMoreThanItsLimit) {
  BufferPool pool;
  std::vector<char*> blocks;
  for (std::size_t i = 0; i < BufferPool::kept_blocks_max + 10; ++i)
    blocks.push_back(pool.take(BufferPool::block_bytes));
  for (char* block : blocks)
    pool.give_back(block, BufferPool::block_bytes);  // the sanitizer finds what leaks
  char* odd = pool.take(3 * KiB);
  pool.give_back(odd, 3 * KiB);
  char* block = pool.take(BufferPool::block_bytes);
  std::memset(block, 1, BufferPool::block_bytes);
  pool.give_back(block, BufferPool::block_bytes);
}

}  // namespace
}  // namespace postern::io
